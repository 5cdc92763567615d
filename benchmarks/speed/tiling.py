"""Cost and visibility of tiles: `ENLARGER_DATA=... python -m benchmarks.speed.tiling`.

`memory`: a process of its own for each size enlarges an image of noise by `predict_step`, by a
small network with random weights: the most that the process had in memory, what is imported among
it, and the same before it began. Tiles are those that the engine chooses, or larger ones where it
is said. `seams`: the measure of `tiling_seams` on images of kodak24, relative to the same lines
of what is enlarged whole, by IMDN with its released weights (`$ENLARGER_WEIGHTS`): it looks at mean
and deviation of all that it is given, so tiles cannot be exact.
Prints JSON, and writes it to benchmarks/results/tiling.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.report import write_report
from lightning_modules.networks.edsr import EDSR
from lightning_modules.networks.imdn import IMDN
from lightning_modules.noise import Span, Tile
from lightning_modules.one_pass.regression import Regression
from lightning_modules.sampling.tiling import Tiling, grid

SEED = 0
SIZES = (1024, 4096)  # sides of outputs
CASES = {
    "x2": {"scale": 2},
    "x4": {"scale": 4},
    "x4, tiles of 512": {"scale": 4, "size": 512},
}
SMALL: dict[str, Any] = {"blocks": 4, "channels": 32}  # EDSR
IMAGES = 4
CROP = 384  # pixels of a photograph, which is the LR image here
TILE, OVERLAP = 128, 32


def main() -> None:
    """Measure all, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--one", type=json.loads, help="one case of memory, for a process alone")
    one = parser.parse_args().one
    if one is not None:
        sys.stdout.write(json.dumps(enlarged(**one)))
        return
    root = os.environ.get("ENLARGER_DATA")
    if root is None:
        sys.exit("set ENLARGER_DATA to the folder that holds kodak24")
    memory = {name: compared(case) for name, case in CASES.items()}
    seams = seams_of(sorted(Path(root, "kodak24").glob("*.png"))[:IMAGES])
    write_report("tiling", {"network": {"EDSR": SMALL}, "memory": memory, "seams": seams}, SEED)


# ------------------------------------------------------------------------------------------ memory
def compared(case: dict[str, int]) -> dict[str, Any]:
    """One case at both sizes, and the ratio of their memory."""
    found = {side: _in_a_process({**case, "side": side}) for side in SIZES}
    small, large = (found[side]["peak_mb"] for side in SIZES)
    return {
        **{f"{side} x {side}": of for side, of in found.items()},
        "ratio": round(large / small, 3),
    }


def _in_a_process(case: dict[str, int]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.speed.tiling", "--one", json.dumps(case)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _sr(output: Any) -> Tensor:
    sr: Tensor = output["sr"]
    return sr


def enlarged(side: int, scale: int, size: int | None = None) -> dict[str, float]:
    """Enlarge one image.

    Args:
        side: Of the output.
        scale: Of the network.
        size: Of tiles; by default the engine's choice.

    Returns:
        Megabytes at the start and at the most, seconds and the number of tiles.
    """
    torch.manual_seed(SEED)
    model = Regression(scale, lambda factor: EDSR(factor, **SMALL)).eval()
    if size is not None:
        model.set_tiling(Tiling(size=size))
    lr = torch.rand(1, 3, side // scale, side // scale)
    batch: Any = {"key": ["a"], "seed": torch.zeros(1, dtype=torch.int64), "size": (side, side)}
    before, begun = _peak_mb(), time.perf_counter()
    with torch.inference_mode():
        model.predict_step(batch | {"lr": lr}, 0)
    return {
        "start_mb": before,
        "peak_mb": _peak_mb(),
        "seconds": round(time.perf_counter() - begun, 2),
        "tiles": model.tile_count or 1,
    }


def _peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


# ------------------------------------------------------------------------------------------- seams
def seams_of(paths: list[Path]) -> dict[str, Any]:
    """Seams of each window, as means over images, and the largest."""
    model = Regression(2, IMDN)
    model.load_weights(Path(os.environ["ENLARGER_WEIGHTS"], "imdn-x2.pth"))
    model.eval()
    found: dict[str, list[tuple[float, float]]] = {}
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))[:CROP, :CROP].copy()
        lr = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        size = 2 * lr.shape[-2], 2 * lr.shape[-1]
        seeds = torch.zeros(1, dtype=torch.int64)
        batch: Any = {"key": [path.stem], "seed": seeds, "size": size, "lr": lr}
        whole = _sr(model.test_step(batch, 0))
        for window in ("linear", "gaussian", "flat"):
            model.set_tiling(Tiling(TILE, OVERLAP, window))
            sr = _sr(model.predict_step(batch, 0))
            tiles = grid((lr.shape[-2], lr.shape[-1]), size, TILE, OVERLAP, window)
            error = 255 * (sr - whole).abs().max().item()
            found.setdefault(window, []).append((seam(sr, tiles) / seam(whole, tiles), error))
    return {
        "images": [path.stem for path in paths],
        "tile": TILE,
        "overlap": OVERLAP,
        **{
            window: {
                "mean": round(sum(ratio for ratio, _ in of) / len(of), 4),
                "largest": round(max(ratio for ratio, _ in of), 4),
                "largest_difference_of_255": round(max(error for _, error in of), 2),
            }
            for window, of in found.items()
        },
    }


def seam(image: Tensor, tiles: Sequence[Tile]) -> float:
    """Mean absolute gradient across the borders of tiles, over that across all other lines.

    Borders are the lines at which a tile begins or ends, and those at which it begins or ends to
    count, alone or beside its neighbours. Each is compared with other lines that lie in the same
    way between the pixels of LR, for gradients within one are smaller than those between two.

    Args:
        image: (..., H, W).
        tiles: Of it.

    Returns:
        About 1 where tiles do not show, in an image that is the same everywhere.
    """
    on, off = [], []
    for dim, spans in ((-2, [t.rows for t in tiles]), (-1, [t.columns for t in tiles])):
        lines = image.diff(dim=dim).abs().movedim(dim, 0).flatten(1).mean(1)
        factor = max(len(spans[0].window) // (spans[0].lr.stop - spans[0].lr.start), 1)
        crossed = torch.zeros(len(lines), dtype=torch.bool)
        crossed[[p - 1 for span in spans for p in borders(span) if 0 < p <= len(lines)]] = True
        for phase in range(factor):
            found, here = lines[phase::factor], crossed[phase::factor]
            if here.any():
                on.append(found[here].sum())
                off.append(found[~here].mean() * here.sum())
    return (sum(on, torch.zeros(())) / sum(off, torch.zeros(()))).item()


def borders(span: Span) -> list[int]:
    """First output pixels behind each border of a side of a tile."""
    counts, alone = (span.window > 0).nonzero(), (span.window > 1 - 1e-6).nonzero()
    found = [0, len(span.window)]
    for part in (counts, alone):
        if len(part):
            found += [int(part[0]), int(part[-1]) + 1]
    return [span.out.start + position for position in found]


if __name__ == "__main__":
    main()
