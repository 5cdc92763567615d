"""Degrading a batch: ours against Real-ESRGAN's own code, in turns, in one run.

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.speed.degradation PEERS

PEERS is a folder with checkouts of BasicSR and Real-ESRGAN as they are published; their pipeline
(`RealESRNetModel.feed_data`, with its released options) runs unchanged, on the device that is
timed. Their blur kernels come ready-made, as their data loader's workers make them; our parameters
are drawn within the time that is measured, on a GPU before it, as our loader's workers do. A batch
of theirs may take ten times as long as another, since most choices are made once a batch: the ratio
is that of the mean times over many batches, and that of the medians is beside it. On a GPU ours is
compiled there, and `gains` compares it with what it is without; numbers are then in
`degradation_cuda.json`.
"""

from __future__ import annotations

import importlib
import logging
import random
import statistics
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from benchmarks import report
from benchmarks.memory import peak_mib
from benchmarks.timing import in_turns, seconds
from commands.process import keep_freed_memory
from degradations.base import Degradation
from degradations.recipes.second_order import RealESRGAN
from degradations.tools.configure import degradation_of
from tests.launches import count_launches, count_operators

SEED = 0
BATCH, SCALE = 16, 4
SIDE, SMALL_SIDE = 256, 128
Prepare = Callable[[int], Callable[[], Any]]  # by the number of a turn, what is timed in it


class Peer:
    """Real-ESRGAN's pipeline, imported from checkouts that the user gives.

    Args:
        folder: Holds `BasicSR` and `Real-ESRGAN`.
        usm: Whether HR is sharpened first, as its options have it by default.
        side: Of the images, in pixels.
        device: Where it runs.

    Raises:
        FileNotFoundError: If a checkout is missing.
    """

    def __init__(self, folder: Path, usm: bool, side: int, device: torch.device) -> None:
        for part in ("BasicSR/basicsr/utils/diffjpeg.py", "Real-ESRGAN/realesrgan/models"):
            if not (folder / part).exists():
                raise FileNotFoundError(
                    f"{folder / part} does not exist: give the folder with checkouts of BasicSR "
                    "and Real-ESRGAN"
                )
        _import_without_their_inits(folder)
        model = importlib.import_module("realesrgan.models.realesrnet_model").RealESRNetModel
        utilities = importlib.import_module("basicsr.utils")
        options = folder / "Real-ESRGAN/options/train_realesrnet_x4plus.yml"
        self.options = yaml.safe_load(options.read_text(encoding="utf-8"))
        self.model = object.__new__(model)  # its constructor wants a network and a CUDA device
        self.model.opt = {**self.options, "gt_usm": usm, "gt_size": side}
        self.model.is_train, self.model.device = True, device
        codec = utilities.DiffJPEG(differentiable=False).to(device)
        # Its result is permuted, which their blur cannot take in today's torch.
        self.model.jpeger = lambda x, quality: codec(x, quality=quality).contiguous()
        self.model.usm_sharpener = utilities.USMSharp().to(device)
        self.model._dequeue_and_enqueue = lambda: None  # ours has no need of a pool
        self.random_kernel = importlib.import_module("basicsr.data.degradations")

    def batch(self, hr: Tensor) -> dict[str, Tensor]:
        """Return a batch as from their data loader: images, and three kernels each."""
        kernels = [[self._kernel(order) for order in (1, 2, 3)] for _ in range(len(hr))]
        stacked = torch.tensor(np.array(kernels), dtype=torch.float32).unbind(1)
        return {"gt": hr, **dict(zip(("kernel1", "kernel2", "sinc_kernel"), stacked, strict=True))}

    def __call__(self, data: dict[str, Tensor]) -> Tensor:
        """One batch of LR."""
        self.model.feed_data(data)
        return self.model.lq

    def _kernel(self, order: int) -> np.ndarray[Any, Any]:
        options = self.options["datasets"]["train"]
        size = random.choice(range(7, 22, 2))
        suffix = "" if order == 1 else "2"
        sinc = options["final_sinc_prob"] if order == 3 else options[f"sinc_prob{suffix}"]
        if random.random() < sinc:
            least = np.pi / 3 if order == 3 or size < 13 else np.pi / 5
            cutoff = np.random.uniform(least, np.pi)
            return self.random_kernel.circular_lowpass_kernel(cutoff, size, pad_to=21)
        if order == 3:
            pulse = np.zeros((21, 21))
            pulse[10, 10] = 1
            return pulse
        kernel = self.random_kernel.random_mixed_kernels(
            *(options[f"{name}{suffix}"] for name in ("kernel_list", "kernel_prob")),
            *(size, options[f"blur_sigma{suffix}"], options[f"blur_sigma{suffix}"]),
            *([-np.pi, np.pi], options[f"betag_range{suffix}"], options[f"betap_range{suffix}"]),
            noise_range=None,
        )
        return np.pad(kernel, (21 - size) // 2)


def _import_without_their_inits(folder: Path) -> None:
    # Importing their packages imports all networks and metrics, some of which no longer import.
    # Empty packages in their place let the few modules of the pipeline be found by themselves.
    paths = {
        "basicsr": "BasicSR/basicsr",
        "basicsr.data": "BasicSR/basicsr/data",
        "basicsr.utils": "BasicSR/basicsr/utils",
        "basicsr.models": "BasicSR/basicsr/models",
        "realesrgan": "Real-ESRGAN/realesrgan",
        "realesrgan.models": "Real-ESRGAN/realesrgan/models",
    }
    for name, path in paths.items():
        package = types.ModuleType(name)
        package.__path__ = [str(folder / path)]
        sys.modules[name] = package
    base = types.ModuleType("basicsr.models.sr_model")
    base.SRModel = object  # type: ignore[attr-defined]
    sys.modules[base.__name__] = base
    utilities = sys.modules["basicsr.utils"]
    utilities.DiffJPEG = importlib.import_module("basicsr.utils.diffjpeg").DiffJPEG  # type: ignore[attr-defined]
    utilities.USMSharp = importlib.import_module("basicsr.utils.img_process_util").USMSharp  # type: ignore[attr-defined]


def photographs(count: int, side: int) -> Tensor:
    """(N, 3, side, side) crops of the photographs in scikit-image and scikit-learn, in [0, 1]."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    images = [*load_sample_images().images, data.astronaut(), data.coffee(), data.rocket()]
    generator = np.random.default_rng(SEED)
    crops = []
    for index in range(count):
        image = images[index % len(images)]
        top, left = (generator.integers(0, n - side + 1) for n in image.shape[:2])
        crops.append(image[top : top + side, left : left + side])
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous().float() / 255


def summary(times: list[float]) -> dict[str, float]:
    """Mean, median and least in milliseconds."""
    return {
        "mean_ms": round(statistics.mean(times) * 1e3, 2),
        "median_ms": round(statistics.median(times) * 1e3, 2),
        "fastest_ms": round(min(times) * 1e3, 2),
    }


def against(peer: list[float], ours: list[float]) -> dict[str, Any]:
    """Both, and how many times as fast ours is."""
    return {
        "peer": summary(peer),
        "ours": summary(ours),
        "ratio_of_means": round(statistics.mean(peer) / statistics.mean(ours), 2),
        "ratio_of_medians": round(statistics.median(peer) / statistics.median(ours), 2),
        "draws": len(peer),
    }


def compare(folder: Path, usm: bool, side: int, draws: int, device: torch.device) -> dict[str, Any]:
    """Their pipeline and ours on the same images, new draws at every turn; ours compiled on a GPU.

    Args:
        folder: Of ``Peer``.
        usm: Whether HR is sharpened first.
        side: Of the images, in pixels.
        draws: Batches of each.
        device: Where both run.
    """
    hr = photographs(BATCH, side).to(device)
    peer, gpu = Peer(folder, usm, side, device), device.type == "cuda"
    recipe = RealESRGAN(SCALE, usm=usm, compile=gpu).to(device)

    def theirs(draw: int) -> Callable[[], Any]:
        return partial(peer, {name: x.to(device) for name, x in peer.batch(hr).items()})

    columns: dict[str, Prepare] = {"peer": theirs, "ours": _on(recipe, hr, ahead=gpu)}
    if gpu:
        columns["ours, draws included"] = _on(recipe, hr)
    times = _in_turns(columns, draws)
    peaks = {name: peak_mib(column(draws), device) for name, column in columns.items()}
    found = against(times.pop("peer"), times.pop("ours"))
    return found | {name: summary(taken) for name, taken in times.items()} | {"peak_mib": peaks}


def _on(recipe: Degradation, hr: Tensor, ahead: bool = False) -> Prepare:
    """What degrades the same images with new parameters in each turn, or draws them before it."""

    def prepared(draw: int) -> Callable[[], Any]:
        seeds = torch.arange(BATCH) + (draw + 10) * BATCH
        if ahead:
            return partial(recipe.replay, hr, recipe.draw_ahead(seeds, hr.shape))
        return partial(recipe, hr, seeds)

    return prepared


def _in_turns(columns: dict[str, Prepare], draws: int) -> dict[str, list[float]]:
    """Seconds a batch; what prepares it is not timed."""
    timed = {name: lambda draw, of=of: seconds(of(draw)) for name, of in columns.items()}
    return in_turns(timed, draws, warm=3)


def gains(draws: int, device: torch.device) -> dict[str, Any]:
    """Our canvas as it is and compiled (on a GPU: a CUDA graph), in turns."""
    hr = photographs(BATCH, SIDE).to(device)
    columns = {
        name: _on(RealESRGAN(SCALE, usm=False, compile=compiled).to(device), hr, ahead=True)
        for name, compiled in (("as it is", False), ("compiled", True))
    }
    peaks = {name: peak_mib(column(-4), device, times=3) for name, column in columns.items()}
    return {
        name: {**summary(values), "peak_mib": peaks[name]}
        for name, values in _in_turns(columns, draws).items()
    }


def beside_kornia(draws: int, device: torch.device) -> dict[str, Any]:
    """Ours without USM, beside the same order of steps out of kornia's augmentations."""
    hr = photographs(BATCH, SIDE).to(device)
    kornia = degradation_of(["configs/degradation/kornia.yaml"], SCALE)
    ours = RealESRGAN(SCALE, usm=False, compile=False)
    return against(*_in_turns({"kornia": _on(kornia, hr), "ours": _on(ours, hr)}, draws).values())


def launches(device: torch.device) -> dict[str, dict[str, int]]:
    """Kernels, library calls and bytes of a batch on the canvas, as the compiler plans it.

    And the operators of one that is not compiled. A machine without a GPU can stand in.
    """
    hr = photographs(BATCH, SIDE).to(device)
    found = {}
    for usm in (False, True):
        recipe = RealESRGAN(SCALE, usm=usm, executor="canvas")
        counted = count_launches(recipe, hr, torch.arange(BATCH))
        found["with USM" if usm else "without USM"] = {
            "kernels": counted.kernels,
            "library_calls": counted.library,
            "launches": counted.kernels + counted.library,
            "megabytes": counted.bytes // 10**6,
            "operators": count_operators(recipe, tuple(hr.shape)),
        }
    return found


def main() -> None:
    """Measure and write the result."""
    parser = report.parser(__doc__, timed=True)
    parser.add_argument(
        "peers",
        type=Path,
        nargs="?",
        help="folder with checkouts of BasicSR and Real-ESRGAN; without it only kornia's classes "
        "are timed beside ours, for degradation_kornia.json",
    )
    parser.add_argument("--draws", type=int, default=150, help="batches of each, without USM")
    parser.add_argument("--usm-draws", type=int, default=30, help="batches of each, with USM")
    arguments = parser.parse_args()

    logging.getLogger().setLevel(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as every command does; theirs profits as well
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    device = torch.device(arguments.device)
    if arguments.peers is None:
        results = beside_kornia(arguments.draws, device)
        report.write_report("degradation_kornia", results, SEED, device=device.type)
        return
    results = {
        "batch": f"{BATCH} images of {SIDE} px to x{SCALE}",
        "without USM": compare(arguments.peers, False, SIDE, arguments.draws, device),
        f"without USM, {SMALL_SIDE} px": compare(
            arguments.peers, False, SMALL_SIDE, arguments.draws, device
        ),
        "with USM": compare(arguments.peers, True, SIDE, arguments.usm_draws, device),
    }
    if device.type == "cuda":
        results["gains"] = gains(arguments.draws, device)
    else:
        results["canvas, compiled"] = launches(device)
    report.write_report("degradation", results, SEED, device=device.type)


if __name__ == "__main__":
    main()
