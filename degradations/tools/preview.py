"""Show what a degradation does to an image: ``python main.py preview``."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from tqdm import tqdm

from degradations.base import Degradation, ImageFunction, Stage
from degradations.compose import OneOf, Shuffled, Sometimes
from degradations.draws import Params, leaves
from degradations.images import as_image, cropped, read_image
from degradations.tools.configure import degradation_of
from files.marks import SHEET
from files.numbers import positive
from files.owned import refuse_foreign, whole_file

GAP = 16  # pixels between tiles
SIDE = 256  # of a tile, in pixels
_INK = (20, 20, 20)
_GREY = (95, 95, 95)
_LETTER = 7  # mean width of a letter in pixels
COMPOSED = (Sometimes, OneOf, Shuffled)  # whose stages are shown instead
CONTAINERS = ("recipes", "stages", "stage")  # names of attributes, not of streams
log = logging.getLogger(__name__)


class Tile(NamedTuple):
    """An image with text beneath.

    image: The image at its own size.
    title: One line.
    words: Further lines, wrapped to the width of the tile.
    """

    image: Image.Image
    title: str
    words: Sequence[str] = ()


class Section(NamedTuple):
    """Tiles side by side under a heading; `side` is the size of their squares in pixels."""

    heading: str
    tiles: Sequence[Tile]
    side: int = SIDE


class Step(NamedTuple):
    """One stage applied to one image.

    name: Names of the streams that lead to it, e.g. ``noise / gaussian``.
    stage: The stage.
    params: Its prepared parameters, tensors of one entry.
    image: (1, C, H, W), its output; may overshoot [0, 1].
    """

    name: str
    stage: Stage
    params: Params
    image: Tensor


def run(degradation: Degradation, hr: Tensor, params: Params) -> tuple[list[Step], Tensor]:
    """Degrade an image, and return the stages that were applied to it, first to last, and the LR.

    Args:
        degradation: The degradation; one without stages has no steps.
        hr: (1, 3, H, W) float32 in [0, 1].
        params: Result of `params_of`.
    """
    steps: list[Step] = []
    restore = []  # functions that undo what is changed in the stages below

    def on_forward(
        name: str, stage: Stage, arguments: tuple[Any, ...], keywords: Params, output: Tensor
    ) -> None:
        """Record a stage that is called by `forward`."""
        # A stage is called as stage(x, params), with either of them by name.
        _, params = (*arguments, *keywords.values())
        steps.append(Step(name, stage, params, output))

    def recorded(name: str, stage: Stage, params: Params, x: Tensor) -> list[ImageFunction]:
        """Return the stage's function, which records its output."""
        [function] = type(stage).image_functions(stage, params, x)

        def record(image: Tensor) -> Tensor:
            output = function(image)
            steps.append(Step(name, stage, params, output))
            return output

        return [record]

    hooked: tuple[str, ...] = ()
    for path, module in degradation.named_modules():
        is_within = path.startswith(hooked)
        # A stage of a recipe's own that is made of others is shown as one step.
        if isinstance(module, Stage) and not isinstance(module, COMPOSED) and not is_within:
            hooked = (*hooked, f"{path}.")
            streams = [part for part in path.split(".") if part not in CONTAINERS]
            name = " / ".join(streams)
            if type(module).image_functions is Stage.image_functions:  # which call forward
                hook = module.register_forward_hook(
                    functools.partial(on_forward, name), with_kwargs=True
                )
                restore.append(hook.remove)
            else:  # these do not call `forward`: replace them in this instance
                vars(module)["image_functions"] = functools.partial(recorded, name, module)
                restore.append(functools.partial(vars(module).pop, "image_functions"))
    try:
        lr = degradation.replay(hr, params)
    finally:
        for undo in restore:
            undo()
    return steps, lr


def parameters_of(params: Params) -> list[str]:
    """Return names and values of one image's parameters, e.g. ``["quality 43", "grey False"]``.

    Matrices, kernels and the seeds of noise fields are left out.
    """
    values: dict[str, Any] = {}
    for path, value in leaves(params):
        is_matrix = np.ndim(value) >= 2 or "convolution." in path
        if not is_matrix and not path.endswith(("seed", "seeds")):
            name = path.rpartition(".")[2]
            values[name] = np.ravel(value)[0].item()
    lines = []
    for name, value in values.items():
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
        lines.append(f"{name} {text}")
    return lines


def name_of(stage: Stage) -> str:
    """Return the class of a stage, or of what it adapts."""
    adapted = getattr(stage, "transform", getattr(stage, "augmentation", stage))
    return type(adapted).__name__


def preview(
    degradation: Degradation,
    hr: Tensor,
    seeds: Sequence[int],
    rows: int,
) -> list[Section]:
    """Return the sections of the sheet: some images stage by stage, and the LR of all seeds.

    Args:
        degradation: The degradation.
        hr: (1, 3, H, W), the image before it.
        seeds: One per draw.
        rows: How many of them are shown stage by stage.
    """
    sections = []
    grid = []
    for number, seed in enumerate(tqdm(seeds, "draws", disable=None)):
        params = degradation.params_of(torch.tensor([seed]), hr.shape)
        steps, lr = run(degradation, hr, params)
        grid.append(Tile(as_image(lr), f"seed {seed}"))
        if number < rows:
            tiles = [Tile(as_image(hr), "HR", [_size_text(hr)])]
            for place, step in enumerate(steps, 1):
                words = [name_of(step.stage), *parameters_of(step.params), _size_text(step.image)]
                tiles.append(Tile(as_image(step.image), f"{place}. {step.name}", words))
            tiles.append(Tile(as_image(lr), "LR", [_size_text(lr)]))
            sections.append(Section(f"Stage by stage, seed {seed}", tiles))
    # Whole multiples of the LR size, near 192 px.
    longest = max(degradation.lr_size(hr.shape[-2:]))
    side = max(1, round(192 / longest)) * longest
    heading = f"{len(grid)} draws of {type(degradation).__name__} at scale {degradation.scale:g}"
    return [*sections, Section(heading, grid, min(side, 2 * SIDE))]


def _size_text(image: Tensor) -> str:
    """Return the size of an image as text."""
    H, W = image.shape[-2:]
    return f"{H} x {W} px"


def sheet(sections: Sequence[Section], width: int = 8 * (192 + GAP) + GAP) -> Image.Image:
    """Draw all sections below each other in one image, `width` pixels wide."""
    rows: list[Image.Image] = []
    for section in sections:
        rows += _rows(section, width)
    height = sum(row.height for row in rows) + GAP
    drawing = Image.new("RGB", (width, height), "white")
    top = 0
    for row in rows:
        drawing.paste(row, (0, top))
        top += row.height
    return drawing


def _rows(section: Section, width: int) -> Iterator[Image.Image]:
    """Yield the heading and the rows of tiles of a section."""
    heading = Image.new("RGB", (width, 48), "white")
    heading_font = ImageFont.load_default(22)
    ImageDraw.Draw(heading).text((GAP, 14), section.heading, _INK, heading_font)
    yield heading
    columns = max(1, (width - GAP) // (section.side + GAP))
    for start in range(0, len(section.tiles), columns):
        yield _row(section.tiles[start : start + columns], section.side, width)


def _row(tiles: Sequence[Tile], side: int, width: int) -> Image.Image:
    """Draw tiles side by side, with their text below."""
    letters = side // _LETTER
    images = [_scaled(tile.image, side) for tile in tiles]
    texts = [_wrapped(tile.words, letters) for tile in tiles]
    image_height = max(image.height for image in images)
    line_count = max(len(text.splitlines()) for text in texts)
    height = image_height + 40 + 17 * line_count
    row = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(row)
    title_font = ImageFont.load_default(15)
    text_font = ImageFont.load_default(13)
    left = GAP
    for tile, image, text in zip(tiles, images, texts, strict=True):
        title = textwrap.shorten(tile.title, letters)
        row.paste(image, (left, 0))
        draw.text((left, image_height + 5), title, _INK, title_font)
        draw.text((left, image_height + 24), text, _GREY, text_font)
        left += side + GAP
    return row


def _wrapped(words: Sequence[str], letters: int) -> str:
    """Wrap each text to lines of so many letters."""
    lines = [textwrap.fill(word, letters) for word in words]
    return "\n".join(lines)


def _scaled(image: Image.Image, side: int) -> Image.Image:
    """Scale an image so that its longer side is ``side``."""
    factor = side / max(image.size)
    width = max(1, round(image.width * factor))
    height = max(1, round(image.height * factor))
    # Enlarged pixels stay squares.
    resampling = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BICUBIC
    return image.resize((width, height), resampling)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line; by default that of this process.

    Returns:
        0.

    Raises:
        ValueError: If nothing was written; ``main.py`` prints its message.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = options.out if options.out.suffix else options.out.with_suffix(".png")
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out is {out}; expected a name that ends in .png")
    if os.path.realpath(out) == os.path.realpath(options.image):
        raise ValueError(f"{out} is an input and would be overwritten: give another --out")
    refuse_foreign(out, SHEET)
    degradation = degradation_of(options.config, options.scale, default_scale=4.0)
    image = read_image(options.image)
    hr = cropped(image, options.crop)
    seeds = range(options.seed, options.seed + options.draws)
    sections = preview(degradation, hr, seeds, options.rows)
    for section in sections[:-1]:
        log.info("%s", section.heading)
        for tile in section.tiles:
            log.info("  %s: %s", tile.title, ", ".join(tile.words))
    mark = PngInfo()
    mark.add_text("Software", "Enlarger preview")  # marks.SHEET
    with whole_file(out) as file:
        sheet(sections).save(file, "PNG", optimize=True, pnginfo=mark)
    log.info("%s", out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py preview",
        description="Show what a degradation does to an image: print the drawn parameters of each "
        "stage, and draw its output and a grid of draws as a PNG.",
        epilog="example: python main.py preview "
        "--config configs/degradation/real_esrgan.yaml photo.png --rows 3",
    )
    parser.add_argument(
        "image",
        metavar="IMAGE",
        type=Path,
        help="an HR image",
    )
    parser.add_argument(
        "--config",
        action="append",
        required=True,
        metavar="FILE",
        help="a degradation (class_path and init_args), or an experiment with the key degradation; "
        "of several, later ones win, as with main.py",
    )
    parser.add_argument(
        "--scale",
        type=float,
        metavar="X",
        help="how many times smaller the LR is (default: data.init_args.scale of the files, else "
        "4)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("preview.png"),
        help="the PNG",
    )
    parser.add_argument(
        "--draws",
        type=positive,
        default=16,
        metavar="N",
        help="draws in the grid",
    )
    parser.add_argument(
        "--rows",
        type=positive,
        default=1,
        metavar="N",
        help="how many of them to show stage by stage",
    )
    parser.add_argument(
        "--crop",
        type=positive,
        default=256,
        metavar="N",
        help="side of the square in the middle of the image, in pixels",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the first draw",
    )
    return parser
