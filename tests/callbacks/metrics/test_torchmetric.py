"""TorchMetric: numbers of torchmetrics called by hand, on any number of processes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics.image import (
    LearnedPerceptualImagePatchSimilarity,
    PeakSignalNoiseRatio,
    StructuralSimilarityIndexMeasure,
    TotalVariation,
    UniversalImageQualityIndex,
    VisualInformationFidelity,
)

from callbacks.metrics.pixels import to_pixels
from callbacks.metrics.torchmetric import TorchMetric
from callbacks.results.files import read_file
from callbacks.results.results import Results
from tests.callbacks.random_inception import inception, inception_file
from tests.callbacks.tiny import Double, Images, NoHR, Tiny, loader, outputs, trainer

__all__ = ["inception", "inception_file"]

SIDE = 48  # VIF needs 41
PSNR = partial(PeakSignalNoiseRatio, data_range=1.0)
SSIM = partial(StructuralSimilarityIndexMeasure, data_range=1.0)
IMAGE_METRICS = {
    "peak_signal_noise_ratio": PSNR,
    "structural_similarity_index_measure": SSIM,
    "universal_image_quality_index": UniversalImageQualityIndex,
    "visual_information_fidelity": VisualInformationFidelity,
}


def rounded(n: int = 7) -> list[Tensor]:
    """Return the tiny model's outputs, and HR, of whole levels."""
    return [(x * 255).round() / 255 for x in outputs(n, SIDE)]


def by_hand(make: Any, sr: Tensor, hr: Tensor) -> list[float]:
    """Return the library's number of each image."""
    found = []
    for a, b in zip(sr.split(1), hr.split(1), strict=True):
        metric = make()
        metric.update(a, b)
        found.append(float(metric.compute()))
    return found


def values_of(tmp_path: Path, *metrics: Any, batch_size: int = 2, n: int = 7) -> list[float]:
    run = trainer(tmp_path, *metrics)
    run.test(Tiny(), loader(Images(n, side=SIDE), batch_size), verbose=False)
    return [record["value"] for metric in metrics for record in metric.records]


class Half(torchmetrics.Metric):
    """Half of PSNR, by a metric in it."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.inner = PSNR()

    def update(self, sr: Tensor, hr: Tensor) -> None:
        self.inner.update(sr, hr)

    def compute(self) -> Tensor:
        value: Tensor = self.inner.compute()
        return value / 2


def test_no_metric_waits_for_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also none within another: processes have different numbers of images."""
    monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
    sr, hr = rounded(1)
    batch: Any = {"key": ["a"]}
    whole, half = TorchMetric(PSNR), TorchMetric(Half)
    for metric in (whole, half):
        metric.load()
    assert half.compute(sr, hr, batch) == whole.compute(sr, hr, batch) / 2


class Drawn(Half):
    """A number that is drawn, as of random crops."""

    def compute(self) -> Tensor:
        return torch.rand(())


def test_what_a_metric_draws_is_the_same_for_each_image_in_any_batch(tmp_path: Path) -> None:
    values_of(tmp_path, metric := TorchMetric(Drawn), batch_size=3)
    assert len(set(metric.images["tiny"].values())) == 1


# ---------------------------------------------------------------------------------- as the library


@pytest.mark.parametrize("name", IMAGE_METRICS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_mean_of_the_library_s_numbers(tmp_path: Path, name: str, batch_size: int) -> None:
    metric = TorchMetric(IMAGE_METRICS[name])
    assert metric.name == name
    [value] = values_of(tmp_path, metric, batch_size=batch_size)
    expected = by_hand(IMAGE_METRICS[name], *rounded())
    assert list(metric.images["tiny"].values()) == pytest.approx(expected, rel=1e-6)
    assert value == pytest.approx(sum(expected) / 7, rel=1e-6)
    assert metric.records[0]["n"] == 7


def test_ranges_colours_and_rounding(tmp_path: Path) -> None:
    whole = rounded()
    luma = [to_pixels(x, "y").float() / 255 for x in whole]
    levels = [(x * 255).round().float() for x in whole]
    cases: list[tuple[dict[str, Any], Any, Any]] = [
        ({}, PSNR, whole),
        ({"color": "y"}, PSNR, luma),
        ({"pixels": "signed"}, PSNR, [x * 2 - 1 for x in whole]),
        ({"pixels": "uint8"}, partial(PeakSignalNoiseRatio, data_range=255.0), levels),
    ]
    values = set()
    for number, (arguments, make, images) in enumerate(cases):
        metric = TorchMetric(make, label=f"m{number}", **arguments)
        seen: list[Tensor] = []
        metric.load()
        update = metric.metric.update
        metric.metric.update = lambda *one, seen=seen, update=update: (  # type: ignore[method-assign]
            seen.append(one[0]),
            update(*one),
        )
        metric._loaded = True
        if arguments.get("pixels") == "uint8":
            [_] = values_of(tmp_path, metric)
            assert seen[0].dtype == torch.uint8
            assert torch.equal(torch.cat(seen).float(), images[0])
            continue
        [value] = values_of(tmp_path, metric)
        torch.testing.assert_close(torch.cat(seen), images[0])
        assert value == pytest.approx(sum(by_hand(make, *images)) / 7, rel=1e-5)
        values.add(value)
    assert len(values) == 3


def test_outputs_alone_and_beside_lr(tmp_path: Path) -> None:
    metric = TorchMetric(partial(TotalVariation, reduction="mean"), inputs=("sr",))
    run = trainer(tmp_path, metric)
    run.validate(Double(), loader(NoHR(3)), verbose=False)
    assert metric.records[0]["n"] == 3
    assert not metric.higher_is_better

    class AsTall(Tiny):
        def test_step(self, batch: Any, *_: int) -> dict[str, Tensor]:
            return {"sr": batch["lr"] * 0.5}

    class SameSize(Images):
        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = super().__getitem__(index)
            return sample | {"hr": sample["lr"]}

    metric = TorchMetric(PSNR, inputs=("sr", "lr"))
    trainer(tmp_path, metric).test(AsTall(), loader(SameSize(3)), verbose=False)
    lr = [SameSize(3)[i]["lr"][None] for i in range(3)]
    levels = [((x * 255).round(), (x * 0.5 * 255).round()) for x in lr]
    expected = [float(-10 * ((a - b) / 255).square().mean().log10()) for a, b in levels]
    assert list(metric.images["tiny"].values()) == pytest.approx(expected, rel=1e-5)


# -------------------------------------------------------------------------------------------- a run


def test_the_protocol_has_all_arguments(tmp_path: Path) -> None:
    trainer(tmp_path, TorchMetric(SSIM), Results()).test(
        Tiny(), loader(Images(2, side=SIDE)), verbose=False
    )
    [ssim] = [row.protocol for row in read_file(tmp_path / "results.json")]
    kind = "torchmetrics.image.ssim.StructuralSimilarityIndexMeasure"
    assert ssim["implementation"] == f"torchmetrics {torchmetrics.__version__}, {kind}"
    assert (ssim["data_range"], ssim["sigma"], ssim["k2"]) == (1.0, 1.5, 0.03)
    assert (ssim["per"], ssim["inputs"], ssim["pixels"]) == ("image", "sr, hr", "float32 in [0, 1]")
    kinds = [
        TorchMetric(
            partial(LearnedPerceptualImagePatchSimilarity, net_type=nn.Linear(2, 2)),
            higher_is_better=False,
        )
        for _ in range(2)
    ]
    assert kinds[0].protocol() != kinds[1].protocol()  # other weights, other numbers
