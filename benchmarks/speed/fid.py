"""FID against torch-fidelity and scipy: `taskset -c 0 python -m benchmarks.speed.fid`.

Features: 8 images of 256x256, our network and torch-fidelity's in turns, one thread. Distance: of
features drawn from a seed, ours, torch-fidelity's eigenvalues, and the root by `sqrtm` as
pytorch-fid and clean-fid take it. Weights are random, for time does not depend on them: no number
of quality comes from here.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.report import without_options, write_report
from callbacks.metrics.fid import FID, Inception, frechet_distance

SEED = 0
ROUNDS = 15
COUNTS = {200: True, 3000: False}  # images; whether to wait for the libraries, too


def random_file(folder: Path) -> Path:
    """A file like the official one, with random weights."""
    from torch_fidelity import feature_extractor_inceptionv3 as library

    extractor = library.FeatureExtractorInceptionV3
    with (
        mock.patch.object(library, "load_state_dict_from_url"),  # nothing is fetched
        mock.patch.object(extractor, "load_state_dict"),
    ):
        net = extractor("random", ["2048"], verbose=False)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):  # its default leaves next to nothing after 94 layers
            nn.init.kaiming_normal_(module.weight)
    torch.save(net.state_dict(), path := folder / "random.pth")
    return path


def seconds(work: Callable[[], object]) -> float:
    """CPU time of one call: this process has one thread, and neighbours do not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


@torch.inference_mode()
def features() -> dict[str, Any]:
    """Milliseconds an image, and the ratio of the times."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with tempfile.TemporaryDirectory() as folder:
        path = random_file(Path(folder))
        theirs = FeatureExtractorInceptionV3("theirs", ["2048"], str(path))
        ours = {preset: FID(preset) for preset in ("torch-fidelity", "clean-fid", "torchmetrics")}
        net = Inception(path)
    for metric in ours.values():
        metric.net = net
    pixels = torch.randint(0, 256, (8, 3, 256, 256), dtype=torch.uint8)
    works: dict[str, Callable[[], Tensor]] = {"library": lambda: theirs(pixels)[0]}
    for preset, metric in ours.items():
        # New images each time: features of those at hand are remembered.
        works[preset] = lambda metric=metric: metric.extract(pixels / 255)  # type: ignore[misc]
    difference = (works["library"]() - works["torch-fidelity"]()).abs().max()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            times[name].append(seconds(work))
    ratio = [a / b for a, b in zip(times["library"], times["torch-fidelity"], strict=True)]
    return {
        "ms_an_image": {k: round(statistics.median(v) / 8 * 1e3, 2) for k, v in times.items()},
        "times_as_fast": round(statistics.median(ratio), 3),
        "largest_difference": float(difference),
        "largest_feature": float(works["library"]().abs().max()),
    }


def by_root(a: Tensor, b: Tensor) -> float:
    """The formula with scipy's root, as pytorch-fid and clean-fid have it."""
    from scipy.linalg import sqrtm

    x, y = a.numpy(), b.numpy()
    one, two = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(one @ two)
    if not np.isfinite(root).all():
        offset = np.eye(len(one)) * 1e-6
        root = sqrtm((one + offset) @ (two + offset))
    means = ((x.mean(0) - y.mean(0)) ** 2).sum()
    return float(means + np.trace(one) + np.trace(two) - 2 * np.trace(root).real)


def by_torch_fidelity(a: Tensor, b: Tensor) -> float:
    """torch-fidelity's own functions."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    statistics_ = [fid_features_to_statistics(x) for x in (a, b)]
    return float(fid_statistics_to_metric(*statistics_, False)["frechet_inception_distance"])


def distance(count: int, compare: bool) -> dict[str, Any]:
    """Seconds and values of one distance of two sets of ``count`` images."""
    mixing = torch.randn(2048, 2048, dtype=torch.float64) / 45
    a = (torch.randn(count, 2048, dtype=torch.float64) @ mixing).relu()
    b = (torch.randn(count, 2048, dtype=torch.float64) @ mixing * 1.1 + 0.1).relu()
    works: dict[str, Callable[[Tensor, Tensor], float]] = {"ours": frechet_distance}
    if compare:
        works |= {"torch_fidelity": by_torch_fidelity, "sqrtm": by_root}
    found: dict[str, Any] = {}
    for name, work in works.items():
        work(a[:3, :8], b[:3, :8])  # imports and first calls do not count
        rounds = 5 if name == "ours" else 1
        times = [seconds(functools.partial(work, a, b)) for _ in range(rounds)]
        found[name] = {"seconds": round(statistics.median(times), 4), "value": work(a, b)}
    for name in list(works)[1:]:
        found[name]["times_as_slow"] = round(found[name]["seconds"] / found["ours"]["seconds"], 1)
        apart = abs(found[name]["value"] / found["ours"]["value"] - 1)
        found[name]["relative_difference"] = float(f"{apart:.2g}")
    return found


def main() -> None:
    """Measure on one core and write the result."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    results = {"features": features()}
    for count, compare in COUNTS.items():
        results[f"distance_of_{count}"] = distance(count, compare)
    write_report("fid", {"rounds": ROUNDS, **results}, SEED)


if __name__ == "__main__":
    without_options(__doc__)
    main()
