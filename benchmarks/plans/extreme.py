"""x16, x24 and x32 from 16 px, and the error of each stage: `python -m benchmarks.plans.extreme`.

With stages of x2, x16 is the fourth stage of x32, and x24 a stage of 1.5 after it: stages that two
scales share have the same noise. The cascade is that of `benchmarks.plans`, which is trained first
if it is not there. Writes `plans_extreme.json` and `plans_extreme.webp` into benchmarks/results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.miniature.measure import short
from benchmarks.plans.photos import squares
from benchmarks.plans.trained import of_photographs
from benchmarks.report import RESULTS, without_options, write_report
from callbacks.metrics.consistency import LRConsistency
from callbacks.metrics.pixels import PSNR, to_pixels
from callbacks.metrics.swd import SWD
from degradations.bicubic import resize
from lightning_modules.casarbi import CasArbi, Stages
from lightning_modules.noise import Noise

if TYPE_CHECKING:
    from datamodules.base import Batch

LR_SIDE, SCALES = 16, (16, 24, 32)
SQUARE = LR_SIDE * max(SCALES)  # in the photographs
SWD_OF = SWD(levels=1, patches=256, directions=64)
TOGETHER = 4  # images: at 512 px the U-Net takes 1 GB for them
EVERY = 2  # photographs, to keep the time within minutes
SHOWN, TILE, HEAD = (1, 3, 11), 192, 24  # photographs, pixels
MIDDLE = 3 / 8  # of a side


def octaves(y: Tensor) -> dict[int, Tensor]:
    """Return the power in each octave of spatial frequency.

    A Hann window, whose power is divided out, keeps the jump from border to border out.

    Args:
        y: (B, n, n) pixels.

    Returns:
        (B,) in squared units of ``y``, by the octave's lower end in cycles an image: 4, 8, 16, ...
        The last one also holds the corners beyond the highest frequency of a side.
    """
    n = y.shape[-1]
    window = torch.hann_window(n, dtype=y.dtype)
    window = window[:, None] * window
    window = window / window.square().mean().sqrt()
    spectrum = torch.fft.fft2((y - y.mean((1, 2), keepdim=True)) * window)
    power = spectrum.abs().square() / n**4  # its sum is the mean square
    along = torch.fft.fftfreq(n, 1 / n, dtype=y.dtype)
    cycles = (along[:, None].square() + along.square()).sqrt()
    lows = [4 << octave for octave in range(n.bit_length()) if 4 << octave < n / 2]
    ends = [*lows[1:], torch.inf]
    return {
        low: power[:, (cycles >= low) & (cycles < end)].sum(1)
        for low, end in zip(lows, ends, strict=True)
    }


def errors(sr: Tensor, lr: Tensor) -> dict[str, Any]:
    """Return how far outputs of one side are from Kodak's photographs shrunk to it, for JSON.

    Args:
        sr: (B, 3, n, n) in [0, 1].
        lr: (B, 3, h, h), the first input.
    """
    batch = squares(SQUARE, LR_SIDE, sr.shape[-1] / LR_SIDE, 1, EVERY)
    hr = batch["hr"]
    patches = [SWD_OF.features(image, batch).double() for image in (sr, hr)]
    powers = [octaves(to_pixels(image, "y")[:, 0]) for image in (sr, hr)]
    return {
        "psnr": short(PSNR(border=0).compute(sr, hr, batch).mean().item()),
        "lr_psnr": short(LRConsistency().compute(sr, hr, {**batch, "lr": lr}).mean().item()),
        "swd": short(SWD_OF.distance(*patches)),
        "share of HR's power by octave": {
            low: short((power.sum() / powers[1][low].sum()).item())
            for low, power in powers[0].items()
        },
    }


def cascades(model: CasArbi, batch: Batch) -> dict[str, Tensor]:
    """Return the outputs of all stages to all scales, by the sides of the stages.

    Args:
        model: A trained cascade; ``division`` says how it divides.
        batch: Of ``squares``.
    """
    found: dict[str, Tensor] = {}
    for scale in SCALES:
        y, path = batch["lr"], ""
        for stage, size in enumerate(model.stages(y, (LR_SIDE * scale,) * 2)):
            path = f"{path} {size[0]}".strip()
            if path not in found:  # scales share stages and their noise
                found[path] = _stage(model, y, size, batch["seed"], stage)
            y = found[path]
    return found


def _stage(model: CasArbi, y: Tensor, size: tuple[int, int], seeds: Tensor, stage: int) -> Tensor:
    parts = []
    for few, own in zip(y.split(TOGETHER), seeds.split(TOGETHER), strict=True):
        with torch.no_grad():
            parts.append(model.stage(few, size, Noise(own).stream(stage), first=stage == 0))
    return torch.cat(parts)


def extreme(model: CasArbi) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the errors by method and stage, for JSON, and what to show.

    Args:
        model: A trained cascade.

    Returns:
        Errors; and images (B, 3, ., .) by their label.
    """
    batch = squares(SQUARE, LR_SIDE, max(SCALES), 1, EVERY)
    lr, network, made = batch["lr"], model.network, {}
    for name, model.network, model.division in (
        ("CasArbi, stages of x2", network, Stages(2.0)),
        ("CasArbi, stages of x3", network, Stages(3.0)),
        ("base, stages of x2", None, Stages(2.0)),
    ):
        made[name] = cascades(model, batch)
    model.network = network
    sides = {path.split()[-1] for of in made.values() for path in of}
    made["bicubic"] = {side: resize(lr, (int(side),) * 2) for side in sorted(sides, key=int)}
    found = {
        name: {path: errors(sr, lr) for path, sr in outputs.items()}
        for name, outputs in made.items()
    }
    shown = {"LR": lr, "bicubic x32": made["bicubic"]["512"]}
    for name, key, by in (
        ("base x32", "base, stages of x2", 32),
        ("x16", "CasArbi, stages of x2", 16),
        ("x24", "CasArbi, stages of x2", 24),
        ("x32", "CasArbi, stages of x2", 32),
        ("x32 by x3", "CasArbi, stages of x3", 32),
    ):
        outputs = made[key]
        shown[name] = next(sr for sr in outputs.values() if sr.shape[-1] == by * LR_SIDE)
    return found, {**shown, "HR": batch["hr"]}


def sheet(shown: dict[str, Tensor]) -> Image.Image:
    """Return some photographs, a line each, and below each its middle.

    Args:
        shown: Images (B, 3, ., .) by their label.
    """
    lines = [(number, middle) for number in SHOWN for middle in (False, True)]
    paper = Image.new("RGB", (len(shown) * (TILE + 2), HEAD + len(lines) * (TILE + 2)), "white")
    pen = ImageDraw.Draw(paper)
    for column, (label, images) in enumerate(shown.items()):
        pen.text((column * (TILE + 2) + 2, 4), label, "black", ImageFont.load_default(13))
        for line, (number, middle) in enumerate(lines):
            levels = (images[number].clamp(0, 1) * 255).round().byte().movedim(0, -1).numpy()
            side = len(levels)
            inner = (side * (1 - MIDDLE) / 2, side * (1 + MIDDLE) / 2) if middle else (0, side)
            box = (inner[0], inner[0], inner[1], inner[1])
            kind = Image.Resampling.NEAREST if side < TILE else Image.Resampling.BICUBIC
            tile = Image.fromarray(levels).resize((TILE, TILE), kind, box)
            paper.paste(tile, (column * (TILE + 2), HEAD + line * (TILE + 2)))
    return paper


def main() -> None:
    """Train, measure, and write JSON and image."""
    plan, _, model = of_photographs()
    found, shown = extreme(model)
    write_report(
        "plans_extreme",
        {"note": plan.table.note, "photographs": len(shown["LR"]), "errors": found},
        seed=0,
    )
    sheet(shown).save(RESULTS / "plans_extreme.webp", quality=85)


if __name__ == "__main__":
    without_options(__doc__)
    main()
