"""NIQE of a batch: ours against BasicSR's own code, in turns, in one run; and how far they differ.

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.speed.niqe PEERS --images FOLDER

PEERS is a folder with a checkout of BasicSR as it is published, whose `calculate_niqe` runs
unchanged, image by image; the pristine model of both is the one in the checkout. Both start
from RGB: theirs from uint8 arrays, ours from a float batch. FOLDER has photographs (Kodak's), of
which the first six are compared: as they are, enlarged by bicubic from a quarter, and as JPEG.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.report import write_report
from benchmarks.speed.degradation import SEED, against, in_turns, photographs
from callbacks.metrics.niqe import NIQE
from callbacks.metrics.sets import find_images
from commands.process import keep_freed_memory

BATCH, SIDE = 8, 256
QUALITY, SCALE = 40, 4  # of the JPEGs and of bicubic that both are compared on
CPU = torch.device("cpu")
Pixels = NDArray[np.uint8]


class Peer:
    """BasicSR's NIQE, imported from a checkout that the user gives.

    Args:
        folder: Holds `BasicSR`.

    Raises:
        FileNotFoundError: If the checkout is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.model = folder / "BasicSR/basicsr/metrics/niqe_pris_params.npz"
        if not self.model.exists():
            raise FileNotFoundError(
                f"{self.model} does not exist: give the folder with a checkout of BasicSR"
            )
        # Importing their packages imports all networks, some of which no longer import: empty
        # packages in their place let the few modules of the metric be found by themselves.
        for name in ("basicsr", "basicsr.metrics", "basicsr.utils"):
            package = types.ModuleType(name)
            package.__path__ = [str(folder / "BasicSR" / name.replace(".", "/"))]
            sys.modules[name] = package
        colors = importlib.import_module("basicsr.utils.color_util")
        sys.modules["basicsr.utils"].bgr2ycbcr = colors.bgr2ycbcr  # type: ignore[attr-defined]
        self.calculate = importlib.import_module("basicsr.metrics.niqe").calculate_niqe

    def __call__(self, images: list[Pixels]) -> list[float]:
        """NIQE of each (H, W, 3) RGB image."""
        return [self.calculate(x[..., ::-1], crop_border=0) for x in images]


class Ours:
    """Our callback, with the peer's pristine model."""

    def __init__(self, model: Path) -> None:
        self.metric = NIQE(model=str(model))
        self.metric.load()

    def __call__(self, batch: Tensor) -> list[float]:
        """NIQE of each image of (B, 3, H, W) in [0, 1]."""
        keys: Any = {"key": [str(i) for i in range(len(batch))]}
        return self.metric.compute(batch, batch, keys).tolist()


def speed(peer: Peer, ours: Ours, rounds: int) -> dict[str, Any]:
    """Milliseconds a batch of each, in turns."""
    batch = photographs(BATCH, SIDE)
    images = list((batch * 255).round().byte().permute(0, 2, 3, 1).numpy())
    columns: dict[str, Callable[[int], Callable[[], Any]]] = {
        "BasicSR": lambda _: partial(peer, images),
        "Enlarger": lambda _: partial(ours, batch),
    }
    times = in_turns(columns, rounds, CPU)
    return against(times["BasicSR"], times["Enlarger"])


def differences(peer: Peer, ours: Ours, folder: Path) -> dict[str, Any]:
    """Both numbers of six photographs, three kinds each, and the largest difference."""
    numbers: dict[str, Any] = {}
    for path in find_images([folder])[:6]:
        for kind, image in kinds(Image.open(path).convert("RGB")).items():
            batch = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
            theirs, own = peer([image])[0], ours(batch)[0]
            numbers[f"{path.stem} {kind}"] = {"peer": round(theirs, 5), "ours": round(own, 5)}
    largest = max(abs(x["peer"] - x["ours"]) for x in numbers.values())
    return {"largest": round(largest, 5), "numbers": numbers}


def kinds(image: Image.Image) -> dict[str, Pixels]:
    """A photograph as it is, enlarged by bicubic from a quarter, and as JPEG."""
    small = image.resize((image.width // SCALE, image.height // SCALE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return {
        "clean": np.array(image),
        f"bicubic x{SCALE}": np.array(small.resize(image.size, Image.Resampling.BICUBIC)),
        f"JPEG {QUALITY}": np.array(Image.open(file)),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description="Time NIQE against BasicSR's code.")
    parser.add_argument("peers", type=Path, help="folder with a checkout of BasicSR")
    parser.add_argument("--images", type=Path, help="folder of photographs to compare them on")
    parser.add_argument("--rounds", type=int, default=40, help="batches of each")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as every command does; theirs profits as well
    peer = Peer(arguments.peers)
    ours = Ours(peer.model)
    results: dict[str, Any] = {
        "batch": f"{BATCH} images of {SIDE} px",
        "speed": speed(peer, ours, arguments.rounds),
    }
    if arguments.images is not None:
        results["difference"] = differences(peer, ours, arguments.images)
    write_report("niqe", results, SEED)


if __name__ == "__main__":
    main()
