"""Differences between presets: `ENLARGER_DATA=... python -m benchmarks.speed.protocols`.

Bicubic on Kodak's 24 photographs, antialiased LR of 8 bits: PSNR and SSIM under the protocols of
configs/callbacks, and how far apart the presets of FID are in the 299x299 pixels that they give to
the network (its weights are not needed for that).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import without_options, write_report
from callbacks.metrics.fid import PREPARATIONS, levels
from callbacks.metrics.pixels import PSNR, SSIM, PixelMetric
from callbacks.metrics.protocols import load_preset
from callbacks.metrics.sets import find_images, read_image
from degradations.bicubic import resize

SCALES = (2, 4)
PRESETS = ("liif-div2k", "idm-faces", "resshift")  # InvSR's and NSARM's are as ResShift's


def pairs(paths: list[Path], scale: int) -> list[tuple[Tensor, Tensor]]:
    """Bicubic and HR."""
    found = []
    for path in paths:
        hr = read_image(path)
        small = [side // scale for side in hr.shape[-2:]]
        found.append((resize(levels(resize(hr, small)) / 255, hr.shape[-2:]), hr))
    return found


def metrics() -> dict[str, list[PixelMetric]]:
    """PSNR and SSIM of each preset, and our defaults."""
    found: dict[str, list[PixelMetric]] = {
        "Y, border = scale (most papers on SR)": [PSNR(), SSIM()]
    }
    for name in PRESETS:
        made = load_preset(name).metrics
        found[name] = [metric for metric in made if isinstance(metric, PixelMetric)]
    return found


def mean(metric: PixelMetric, images: list[tuple[Tensor, Tensor]], scale: int) -> float:
    """The metric's mean over images."""
    metric.scale = scale
    batch: Any = {"key": ["kodak"]}
    return float(torch.cat([metric.compute(sr, hr, batch) for sr, hr in images]).mean())


def apart(images: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Root mean square difference between presets of FID, in levels of 255, on HR."""
    found = {}
    prepared = {
        name: torch.cat([prepare(levels(hr)) for _, hr in images])
        for name, (_, _, prepare) in PREPARATIONS.items()
    }
    names = list(prepared)
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            difference = (prepared[one] - prepared[two]).square().mean().sqrt()
            found[f"{one} / {two}"] = round(float(difference), 2)
    return found


def main() -> None:
    """Measure and write the result."""
    root = os.environ.get("ENLARGER_DATA")
    if root is None:
        sys.exit("set ENLARGER_DATA to the folder that holds kodak24")
    torch.set_num_threads(1)
    paths = find_images([Path(root, "kodak24")])
    results: dict[str, Any] = {"images": len(paths)}
    for scale in SCALES:
        images = pairs(paths, scale)
        results[f"x{scale}"] = {
            preset: {metric.name: round(mean(metric, images, scale), 4) for metric in kinds}
            for preset, kinds in metrics().items()
        }
    results["pixels_of_fid"] = apart(images)
    write_report("protocols", results, seed=0)


if __name__ == "__main__":
    without_options(__doc__)
    main()
