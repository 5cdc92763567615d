"""A whole validation: our metrics against the reference libraries, one after another, in turns.

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.speed.metrics PEERS

PSNR, SSIM (scikit-image), LPIPS-Alex (lpips), NIQE (BasicSR's own code) and FID (torch-fidelity) of
the same images of 256 px in batches of 8, in one thread; ours as callbacks of a validation by
Lightning. What can be kept of the references is kept on both sides: torch-fidelity's features of
HR, ours those of LPIPS too. PEERS is a folder with a checkout of BasicSR as it is published, whose
pristine model both have; the networks of LPIPS and FID have random weights, from the same files,
for time does not depend on them: no number of quality comes from here, but both sides' must agree.

With `--steps N`, also the share of validation with these metrics in a training run: the quickstart
on degraded photographs, on all cores that the process may use.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from benchmarks.report import write_report
from benchmarks.speed.degradation import SEED, photographs
from benchmarks.speed.fid import random_file, seconds
from benchmarks.speed.niqe import Peer
from benchmarks.speed.validation_clock import ValidationClock
from callbacks import weights
from callbacks.metrics.base import Metric
from callbacks.metrics.fid import FID, frechet_distance, levels
from callbacks.metrics.niqe import NIQE
from callbacks.metrics.perceptual import LPIPS
from callbacks.metrics.pixels import PSNR, SSIM
from degradations.bicubic import resize

BATCH, SIDE, SCALE = 8, 256, 4
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
Numbers = dict[str, float]


# ------------------------------------------------------------------------------------- both sides
class Libraries:
    """The reference libraries, called one after another.

    Args:
        batches: Outputs and HR, (B, 3, H, W) in [0, 1] each.
        folder: Holds the weights.
        peer: BasicSR's NIQE.
    """

    def __init__(self, batches: list[tuple[Tensor, Tensor]], folder: Path, peer: Peer) -> None:
        import lpips
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        entries = weights.manifest()
        self.batches, self.peer = batches, peer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.lpips = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        state = torch.load(folder / entries["alexnet"]["file"], weights_only=True)
        names = self.lpips.net.state_dict()  # slice1.0.weight is features.0.weight
        own = {name: state[f"features.{name.split('.', 1)[1]}"] for name in names}
        self.lpips.net.load_state_dict(own)
        inception = str(folder / entries["fid-inception"]["file"])
        self.inception = FeatureExtractorInceptionV3("theirs", ["2048"], inception)
        self.works: dict[str, Callable[[Tensor, Tensor], list[float]]] = {
            "psnr": self.psnr,
            "ssim": self.ssim,
            "lpips": self.lpips_of,
            "niqe": self.niqe,
        }
        self.hr_features = torch.cat([self.features(hr) for _, hr in batches])
        self.hr = self.statistics([self.hr_features])

    def validate(self, names: list[str]) -> Numbers:
        """The mean of each metric."""
        found: dict[str, list[float]] = {name: [] for name in names if name != "fid"}
        features = []
        for sr, hr in self.batches:
            for name, values in found.items():
                values += self.works[name](sr, hr)
            if "fid" in names:
                features.append(self.features(sr))
        numbers = {name: float(np.mean(values)) for name, values in found.items()}
        return numbers | ({"fid": self.distance(features)} if features else {})

    def psnr(self, sr: Tensor, hr: Tensor) -> list[float]:
        """scikit-image on Y."""
        return [
            peak_signal_noise_ratio(b, a, data_range=255)
            for a, b in zip(map(luma, sr), map(luma, hr), strict=True)
        ]

    def ssim(self, sr: Tensor, hr: Tensor) -> list[float]:
        """scikit-image on Y, with the window of the paper."""
        return [
            structural_similarity(
                *(a, b),
                data_range=255,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
            for a, b in zip(map(luma, sr), map(luma, hr), strict=True)
        ]

    @torch.inference_mode()
    def lpips_of(self, sr: Tensor, hr: Tensor) -> list[float]:
        """The package lpips."""
        return list(self.lpips(sr * 2 - 1, hr * 2 - 1).flatten().tolist())

    def niqe(self, sr: Tensor, hr: Tensor) -> list[float]:
        """BasicSR."""
        return [float(value) for value in self.peer([as_uint8(x) for x in sr])]

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """torch-fidelity."""
        found: Tensor = self.inception(levels(images).byte())[0]
        return found

    @staticmethod
    def statistics(features: list[Tensor]) -> Any:
        """Mean and covariance by torch-fidelity."""
        from torch_fidelity.metric_fid import fid_features_to_statistics

        return fid_features_to_statistics(torch.cat(features))

    def distance(self, features: list[Tensor]) -> float:
        """torch-fidelity's distance from the HR."""
        from torch_fidelity.metric_fid import fid_statistics_to_metric

        found = fid_statistics_to_metric(self.statistics(features), self.hr, False)
        return float(found["frechet_inception_distance"])


class Outputs(LightningModule):
    """A model whose outputs lie in the batch, so that nothing but metrics takes time."""

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The output, a new tensor: features of one at hand would be remembered."""
        return {"sr": batch["sr"].clone()}


class Named(list[Any]):
    """Batches with the attributes that our data module's datasets have."""

    name, scale = "photographs", SCALE
    keys: list[str]


class Ours:
    """Our callbacks, in a validation by Lightning.

    Args:
        batches: Outputs and HR, (B, 3, H, W) in [0, 1] each.
        metrics: The callbacks.
    """

    def __init__(self, batches: list[tuple[Tensor, Tensor]], metrics: list[Metric]) -> None:
        data = Named()
        for number, (sr, hr) in enumerate(batches):
            keys = [f"{number:03d}-{i}" for i in range(len(sr))]
            data.append({"key": keys, "sr": sr, "hr": hr, "size": (SIDE, SIDE)})
        data.keys = [key for batch in data for key in batch["key"]]
        self.loader: Any = DataLoader(data, batch_size=None)  # type: ignore[arg-type]
        self.model, self.metrics = Outputs(), metrics
        self.trainer = Trainer(
            accelerator="cpu",
            logger=False,
            callbacks=list(metrics),
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    def validate(self) -> Numbers:
        """The number of each metric."""
        self.trainer.validate(self.model, self.loader, verbose=False)
        return {r["metric"]: r["value"] for metric in self.metrics for r in metric.records}


def luma(image: Tensor) -> NDArray[np.float64]:
    """Y of BT.601 without the border, by scikit-image."""
    whole = rgb2ycbcr(as_uint8(image))[..., 0]
    inside: NDArray[np.float64] = whole[SCALE:-SCALE, SCALE:-SCALE]
    return inside


def as_uint8(image: Tensor) -> NDArray[np.uint8]:
    """(H, W, 3) of 8 bits, as a file would have it."""
    return (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def our_metrics() -> dict[str, Metric]:
    """Those that the libraries have, by name, with the libraries' protocols."""
    made = PSNR(), SSIM(), LPIPS(), NIQE(), FID("torch-fidelity")
    return {metric.name: metric for metric in made}


def images(count: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of bicubic x4, rounded to 8 bits, and HR."""
    hr = photographs(count, SIDE)
    small = levels(resize(hr, (SIDE // SCALE, SIDE // SCALE))) / 255
    sr = levels(resize(small, (SIDE, SIDE))) / 255
    return list(zip(sr.split(BATCH), hr.split(BATCH), strict=True))


# ------------------------------------------------------------------------------------ measurement
def compare(count: int, rounds: int, folder: Path, peer: Peer) -> dict[str, Any]:
    """Time of a whole validation and of each metric, of both, in turns."""
    batches = images(count)
    libraries = Libraries(batches, folder, peer)
    metrics = our_metrics()
    sides: dict[str, tuple[Callable[[], Numbers], Callable[[], Numbers]]] = {}
    kinds = {"all": list(metrics), **{name: [name] for name in metrics}}
    for label, names in kinds.items():
        ours = Ours(batches, [our_metrics()[name] for name in names])
        sides[label] = (lambda names=names: libraries.validate(names)), ours.validate  # type: ignore[misc]
    numbers = [validate() for validate in sides["all"]]
    times: dict[str, tuple[list[float], list[float]]] = {label: ([], []) for label in sides}
    for turn in tqdm(range(-1, rounds), desc="validations of both"):
        for label, both in sides.items():
            for kept, validate in zip(times[label], both, strict=True):
                taken = seconds(validate)
                if turn >= 0:  # the first one fills caches
                    kept.append(taken)
    found = {label: against(*both, count) for label, both in times.items()}
    features = [libraries.features(sr) for sr, _ in batches]
    by_theirs = seconds(lambda: libraries.distance(features))
    sets = torch.cat(features).double(), libraries.hr_features.double()
    by_ours = seconds(lambda: frechet_distance(*sets))
    left = [statistics.median(part) for part in times["all"]]
    return {
        "images": count,
        "rounds": rounds,
        "relative_difference": {
            name: float(f"{abs(numbers[1][name] / value - 1):.1e}")
            for name, value in numbers[0].items()
        },
        **found,
        # The libraries' takes as long for few images as for many: what is left is more per image.
        "distance_of_fid": {"libraries_s": round(by_theirs, 3), "ours_s": round(by_ours, 3)},
        "without_distance_times_as_fast": round((left[0] - by_theirs) / (left[1] - by_ours), 3),
    }


def against(theirs: list[float], ours: list[float], count: int) -> dict[str, float]:
    """Milliseconds an image of both, and the median of the turns' ratios."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {
        "libraries_ms": round(statistics.median(theirs) / count * 1e3, 2),
        "ours_ms": round(statistics.median(ours) / count * 1e3, 2),
        "times_as_fast": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
    }


def share(steps: int) -> dict[str, Any]:
    """The share of validation in a run of the quickstart on degraded photographs."""
    from main import main as enlarger

    experiment = CONFIGS / "experiment/real_esrgan_quickstart.yaml"
    with tempfile.TemporaryDirectory() as folder:
        enlarger(
            [
                *("fit", "--config", str(experiment), "--run.root", folder),
                *("--trainer.max_steps", str(steps)),
                *("--trainer.val_check_interval", str(min(steps, 250))),
                *("--trainer.callbacks", str(CONFIGS / "callbacks/measure.yaml")),
                "--trainer.callbacks+=benchmarks.speed.validation_clock.ValidationClock",
            ]
        )
    run = ValidationClock.runs[-1]
    return {
        "steps": steps,
        "validations": run.count,
        "images": 24,
        "seconds": round(run.seconds, 1),
        "share": round(run.validating / run.seconds, 4),
        "seconds_a_validation": round(run.validating / run.count, 2),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description="Time a validation against reference libraries.")
    parser.add_argument("peers", type=Path, help="folder with a checkout of BasicSR")
    parser.add_argument("--images", type=int, default=64, help="images of a validation")
    parser.add_argument("--rounds", type=int, default=7, help="validations of each")
    parser.add_argument("--steps", type=int, default=0, help="also train, for so many steps")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    torch.manual_seed(SEED)
    peer = Peer(arguments.peers)
    with random_weights(peer.model) as folder:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        results = compare(arguments.images, arguments.rounds, folder, peer)
        torch.set_num_threads(threads)
        if arguments.steps:
            results["in_training"] = share(arguments.steps)
    write_report("metrics", results, SEED)


@contextmanager
def random_weights(model: Path) -> Iterator[Path]:
    """A folder with files like the published ones, in which the project looks for them.

    Args:
        model: NIQE's pristine model, which is the real one.
    """
    before = weights.MANIFEST, os.environ.get("ENLARGER_WEIGHTS")
    entries = weights.manifest()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_file(folder).rename(folder / entries["fid-inception"]["file"])
        torch.save(random_alexnet(), folder / entries["alexnet"]["file"])
        (folder / entries["niqe-pristine"]["file"]).write_bytes(model.read_bytes())
        for key in ("fid-inception", "alexnet", "niqe-pristine"):
            content = (folder / entries[key]["file"]).read_bytes()
            entries[key]["sha256"] = hashlib.sha256(content).hexdigest()
        weights.MANIFEST = folder / "weights.yaml"
        weights.MANIFEST.write_text(yaml.safe_dump(entries), encoding="utf-8")
        os.environ["ENLARGER_WEIGHTS"] = name
        try:
            yield folder
        finally:
            weights.MANIFEST = before[0]
            del os.environ["ENLARGER_WEIGHTS"]
            if before[1] is not None:
                os.environ["ENLARGER_WEIGHTS"] = before[1]


def random_alexnet() -> dict[str, Tensor]:
    """AlexNet's convolutions as torchvision's file has them, with random weights."""
    from torchvision.models import alexnet

    with torch.device("meta"):  # its classifier is not needed
        features = alexnet(weights=None).features
    features.to_empty(device="cpu")
    for parameter in features.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return {f"features.{key}": value for key, value in features.state_dict().items()}


if __name__ == "__main__":
    main()
