"""Degrading a batch: ours against Real-ESRGAN's own code, in turns, in one run.

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.speed.degradation PEERS

PEERS is a folder with checkouts of BasicSR and Real-ESRGAN as they are published; their pipeline
(`RealESRNetModel.feed_data`, with its released options) runs unchanged, on the device that is
timed. Their blur kernels come ready-made, as their data loader's workers make them; ours are made
within the time that is measured. A batch of theirs may take ten times as long as another, since
most choices are made once a batch: the ratio is that of the mean times over many batches, and
that of the medians is beside it. On a GPU ours is compiled there, and `gains` compares it with what
it is without; numbers are then in `degradation_cuda.json`.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import random
import statistics
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from benchmarks import report
from benchmarks.memory import peak_mib
from commands.process import keep_freed_memory
from degradations.base import Degradation
from degradations.compose import Mixture
from degradations.draws import Packed
from degradations.recipes.second_order import RealESRGAN, RealESRGANLight
from degradations.tools.configure import degradation_of
from tests.launches import count_launches, count_operators

SEED = 0
BATCH, SIDE, SCALE = 16, 256, 4


class Peer:
    """Real-ESRGAN's pipeline, imported from checkouts that the user gives.

    Args:
        folder: Holds `BasicSR` and `Real-ESRGAN`.
        usm: Whether HR is sharpened first, as its options have it by default.
        device: Where it runs.

    Raises:
        FileNotFoundError: If a checkout is missing.
    """

    def __init__(self, folder: Path, usm: bool, device: torch.device) -> None:
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
        self.model.opt = {**self.options, "gt_usm": usm}
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


def seconds(function: Callable[[], Any], device: torch.device) -> float:
    """Time of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turns(
    columns: dict[str, Callable[[int], Callable[[], Any]]], draws: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds a call of every column, one call each in turn; what comes before is not timed."""
    times: dict[str, list[float]] = {name: [] for name in columns}
    for draw in tqdm(range(-3, draws), desc=" / ".join(columns), leave=False):
        for name, prepare in columns.items():
            taken = seconds(prepare(draw), device)
            if draw >= 0:  # the others warm up
                times[name].append(taken)
    return times


def summary(times: list[float]) -> dict[str, float]:
    """Mean and median in milliseconds."""
    return {
        "mean_ms": round(statistics.mean(times) * 1e3, 2),
        "median_ms": round(statistics.median(times) * 1e3, 2),
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


def compare(folder: Path, usm: bool, draws: int, device: torch.device, compile: bool) -> Any:
    """Their pipeline and ours on the same images, new draws at every turn."""
    hr = photographs(BATCH, SIDE).to(device)
    peer = Peer(folder, usm, device)
    ours = RealESRGAN(SCALE, usm=usm, compile=compile).to(device)

    def theirs(draw: int) -> Callable[[], Any]:
        return partial(peer, {name: x.to(device) for name, x in peer.batch(hr).items()})

    def own(draw: int) -> Callable[[], Any]:
        return partial(ours, hr, seeds(draw))

    times = in_turns({"Real-ESRGAN": theirs, "Enlarger": own}, draws, device)
    return {
        **against(times["Real-ESRGAN"], times["Enlarger"]),
        "peak_mib": {
            "peer": peak_mib(theirs(draws), device),
            "ours": peak_mib(own(draws), device),
        },
    }


def gains(draws: int, device: torch.device) -> dict[str, Any]:
    """Our canvas as it is and compiled (on a GPU: a CUDA graph), in turns."""
    hr = photographs(BATCH, SIDE).to(device)
    columns: dict[str, Callable[[int], Callable[[], Any]]] = {}
    for name, compiled in (("as it is", False), ("compiled", True)):
        ours = RealESRGAN(SCALE, usm=False, executor="canvas", compile=compiled).to(device)
        columns[name] = partial(_batch, ours, hr)
    peaks = {name: peak_mib(column(-4), device, times=3) for name, column in columns.items()}
    return {
        name: {**summary(values), "peak_mib": peaks[name]}
        for name, values in in_turns(columns, draws, device).items()
    }


def _run(ours: RealESRGAN, packed: Packed, hr: Tensor, rows: Tensor) -> Tensor:
    return ours._on_canvas(hr, packed.unpacked(rows))


def _batch(degradation: Degradation, hr: Tensor, draw: int) -> Callable[[], Any]:
    return partial(degradation, hr, seeds(draw))


def seeds(draw: int) -> Tensor:
    """(B,) new ones for every draw."""
    return torch.arange(BATCH) + (draw + 10) * BATCH


def variants(draws: int, device: torch.device) -> dict[str, Any]:
    """Our pipeline on images of differing sizes, and in a mixture, against itself.

    Images of differing sizes, 192 to 320 px, go one by one, as evaluation has them; so they are
    compared with images of 256 px that go one by one.
    """
    hr = photographs(BATCH, SIDE).to(device)
    generator = np.random.default_rng(SEED)
    sides = np.sort(generator.integers(192 // 4, 320 // 4 + 1, BATCH) * 4)
    others = [photographs(BATCH, int(side))[i : i + 1].to(device) for i, side in enumerate(sides)]
    pixels = sum(x.shape[-1] ** 2 for x in others) / (BATCH * SIDE**2)
    plain = RealESRGAN(SCALE, usm=False, compile=False)
    light = RealESRGANLight(SCALE, usm=False, compile=False)
    mixture = Mixture(
        SCALE,
        [
            lambda scale: RealESRGAN(scale, usm=False),
            lambda scale: RealESRGANLight(scale, usm=False),
        ],
        [0.5, 0.5],
    )

    def batch(degradation: Degradation, draw: int) -> Callable[[], Any]:
        return partial(degradation, hr, seeds(draw))

    def one_by_one(images: list[Tensor], draw: int) -> Callable[[], Any]:
        def run() -> None:
            for x, seed in zip(images, seeds(draw).chunk(BATCH), strict=True):
                plain(x, seed)

        return run

    times = in_turns(
        {
            "plain": partial(batch, plain),
            "one by one": partial(one_by_one, list(hr.chunk(BATCH))),
            "differing sizes": partial(one_by_one, others),
            "light": partial(batch, light),
            "mixture": partial(batch, mixture),
        },
        draws,
        device,
    )
    mean = {name: statistics.mean(values) for name, values in times.items()}
    return {
        **{name: summary(values) for name, values in times.items()},
        # Throughput against that of what it is made of: pixels, members, the recipe by itself.
        "throughput_of_one_by_one": round(mean["plain"] / mean["one by one"], 3),
        "throughput_of_differing_sizes": round(
            mean["one by one"] * pixels / mean["differing sizes"], 3
        ),
        "throughput_of_mixture": round((mean["plain"] + mean["light"]) / 2 / mean["mixture"], 3),
        "draws": draws,
    }


def beside_kornia(draws: int, device: torch.device) -> dict[str, Any]:
    """Ours without USM, beside the same order of steps out of kornia's augmentations."""
    hr = photographs(BATCH, SIDE).to(device)
    kornia = degradation_of(["configs/degradation/kornia.yaml"], SCALE)
    ours = RealESRGAN(SCALE, usm=False, compile=False)
    columns: dict[str, Callable[[int], Callable[[], Any]]] = {
        "kornia": partial(_batch, kornia, hr),
        "ours": partial(_batch, ours, hr),
    }
    times = in_turns(columns, draws, device)
    return against(times["kornia"], times["ours"])


def host_ms(drawn: bool) -> float:
    """CPU milliseconds of the training process for a batch, but for its launches: best of seven.

    The compiler's guards are included; its code is replaced by a function that does nothing.

    Args:
        drawn: Whether a worker has drawn the parameters.
    """
    hr, lr = torch.zeros(BATCH, 3, SIDE, SIDE), torch.zeros(BATCH, 3, SIDE // SCALE, SIDE // SCALE)
    ours = RealESRGAN(SCALE, usm=False, executor="canvas", compile=True)
    ours.skip_first_batch_checks()
    packed = ours.draw_ahead(seeds(0), hr.shape)
    run = partial(_run, ours, packed)
    ours._compiled = packed.layout, torch.compile(run, backend=lambda *_: lambda *_: (lr,))
    rows = [ours.draw_ahead(seeds(draw), hr.shape) for draw in range(100)]
    best = math.inf
    for _ in range(8):  # the first compiles
        start = time.process_time()
        for draw, row in enumerate(rows):
            ours.replay(hr, row) if drawn else ours(hr, seeds(draw))
        best = min(best, time.process_time() - start)
    return round(best / len(rows) * 1e3, 2)


def launches(device: torch.device) -> dict[str, dict[str, int]]:
    """Kernels, library calls and bytes of a batch on the canvas, as the compiler plans it.

    And the operators of one that is not compiled. A machine without a GPU can stand in.
    """
    hr = photographs(BATCH, SIDE).to(device)
    found = {}
    for usm in (False, True):
        recipe = RealESRGAN(SCALE, usm=usm, executor="canvas")
        counted = count_launches(recipe, hr, seeds(0))
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
    parser = argparse.ArgumentParser(description="Time degradation against Real-ESRGAN's code.")
    parser.add_argument(
        "peers",
        type=Path,
        nargs="?",
        help="folder with checkouts of BasicSR and Real-ESRGAN; without it only kornia's classes "
        "are timed beside ours, for degradation_kornia.json",
    )
    parser.add_argument("--draws", type=int, default=150, help="batches of each, without USM")
    parser.add_argument("--usm-draws", type=int, default=30, help="batches of each, with USM")
    parser.add_argument("--device", default=report.device(), help="by default what is there")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
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
    compiled = device.type == "cuda"
    results = {
        "batch": f"{BATCH} images of {SIDE} px to x{SCALE}",
        "without USM": compare(arguments.peers, False, arguments.draws, device, compiled),
        "with USM": compare(arguments.peers, True, arguments.usm_draws, device, compiled),
        "variants": variants(arguments.draws, device),
        "canvas, compiled": launches(device),
        "host_ms": {"drawn by a worker": host_ms(True), "drawn here": host_ms(False)},
    }
    if compiled:
        results["gains"] = gains(arguments.draws, device)
    report.write_report("degradation", results, SEED, device=device.type)


if __name__ == "__main__":
    main()
