"""Draw docs/gan_curves.webp: curves of trainings against a discriminator, and what they made.

    python -m benchmarks.gan_curves RUNS OUTPUTS PHOTOGRAPH

RUNS has a folder of each run; OUTPUTS the enlarged crop of each, as NAME.png; PHOTOGRAPH is the
crop itself: 256 x 256 px of kodim08 from (200, 120). docs/gan_curves.md has the trainings.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[1]
COLOURS = {
    "healthy": (31, 119, 60),
    "strong_discriminator": (31, 90, 180),
    "heavy": (200, 110, 0),
    "no_pixel": (190, 30, 45),
}
LABELS = {
    "healthy": "healthy",
    "strong_discriminator": "discriminator's rate x 50",
    "heavy": "adversarial weight x 100",
    "no_pixel": "no pixel loss",
}
PANELS = {  # by the scalar: the title, and the range of the axis
    "train/discriminator": ("discriminator loss", (1.0, 1.5)),
    "train/gradient": ("log10 of the gradient norm", (-4.0, 0.0)),
    "val/psnr": ("PSNR", (21.0, 24.0)),
    "val/niqe": ("NIQE", (5.0, 13.0)),
}
WIDTH = 480
HEIGHT = 276
MARGIN = 44
BOTTOM = 40  # pixels below a panel's axis
LEGEND = 28
THICK = {"healthy": 6}  # it is drawn first, and lies below the others
SIDE = 320
BOX = (48, 72, 208, 232)  # of the crops, which are shown twice as large
WINDOW = 20  # steps that a point of training is the mean of


def scalars(run: Path, name: str) -> tuple[list[int], list[float]]:
    """Return steps and values of a scalar; those of training are means.

    Args:
        run: The run's folder.
        name: The scalar's name.
    """
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    points = events.Scalars(name)
    steps = [point.step for point in points]
    values = [point.value for point in points]
    if name.startswith("val/"):
        return steps, values
    starts = range(0, len(values) - WINDOW + 1, WINDOW)
    means = [float(np.mean(values[start : start + WINDOW])) for start in starts]
    return [steps[start + WINDOW // 2] for start in starts], means


def panel(runs: Mapping[str, Path], name: str) -> Image.Image:
    """Draw the curves of one scalar.

    Args:
        runs: Folders by name.
        name: The scalar's name.
    """
    title, (low, high) = PANELS[name]
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)
    draw.text((MARGIN, 4), title, "black", font)
    draw.rectangle((MARGIN, 28, WIDTH - 20, HEIGHT - BOTTOM), outline=(120, 120, 120))
    draw.text((WIDTH // 2, HEIGHT - 20), "step", "black", font)

    def place(step: int, value: float) -> tuple[float, float]:
        if name == "train/gradient":
            value = np.log10(value)
        share = (np.clip(value, low, high) - low) / (high - low)
        x = MARGIN + step / 600 * (WIDTH - 20 - MARGIN)
        return x, HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - 28)

    for value in np.linspace(low, high, 5):
        y = HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - 28)
        draw.line((MARGIN, y, WIDTH - 20, y), (225, 225, 225))
        draw.text((4, y - 8), f"{value:g}", "black", font)
    for step in (0, 200, 400, 600):
        x = MARGIN + step / 600 * (WIDTH - 20 - MARGIN)
        draw.text((x - 12, HEIGHT - BOTTOM + 4), str(step), "black", font)
    for run, folder in runs.items():
        points = [place(step, value) for step, value in zip(*scalars(folder, name), strict=True)]
        draw.line(points, COLOURS[run], THICK.get(run, 2))
    return image


def legend(width: int) -> Image.Image:
    """Draw a line and a label of each run, side by side.

    Args:
        width: Of the picture.
    """
    image = Image.new("RGB", (width, LEGEND), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)
    for number, (run, label) in enumerate(LABELS.items()):
        left = MARGIN + number * (width - MARGIN) // len(LABELS)
        draw.line((left, LEGEND // 2, left + 24, LEGEND // 2), COLOURS[run], THICK.get(run, 2))
        draw.text((left + 30, 5), label, "black", font)
    return image


def crops(outputs: Path, photograph: Path, names: Sequence[str]) -> list[Image.Image]:
    """Return the photograph and each output, with captions in the curves' colours.

    Args:
        outputs: Folder of the outputs.
        photograph: The original.
        names: Runs.
    """
    font = ImageFont.load_default(14)
    files = {"the photograph": photograph, "start: pixel loss alone": outputs / "pretrained.png"}
    files |= {LABELS[name]: outputs / f"{name}.png" for name in names}
    black = (0, 0, 0)
    colours = [black, black, *(COLOURS[name] for name in names)]
    captioned = []
    for (caption, file), colour in zip(files.items(), colours, strict=True):
        crop = (
            Image.open(file).convert("RGB").crop(BOX).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        )
        image = Image.new("RGB", (SIDE, SIDE + 24), "white")
        image.paste(crop, (0, 24))
        ImageDraw.Draw(image).text((2, 3), caption, colour, font)
        captioned.append(image)
    return captioned


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("outputs", type=Path)
    parser.add_argument("photograph", type=Path)
    options = parser.parse_args()
    runs = {name: options.runs / name for name in COLOURS}
    width = 2 * WIDTH
    below = LEGEND + 2 * HEIGHT
    picture = Image.new("RGB", (width, below + 2 * (SIDE + 24)), "white")
    picture.paste(legend(width), (0, 0))
    for number, name in enumerate(PANELS):
        picture.paste(panel(runs, name), (number % 2 * WIDTH, LEGEND + number // 2 * HEIGHT))
    for number, crop in enumerate(crops(options.outputs, options.photograph, list(runs))):
        place = (number % 3 * SIDE, below + number // 3 * (SIDE + 24))
        picture.paste(crop, place)
    picture.save(ROOT / "docs" / "gan_curves.webp", quality=88)
    picture.save(options.outputs / "gan_curves.png")


if __name__ == "__main__":
    main()
