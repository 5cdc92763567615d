"""Show what a degradation does to images: ``python main.py preview``."""

from __future__ import annotations

import argparse
import base64
import html
import logging
import os
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm import tqdm

from degradations.base import Degradation, Stage
from degradations.compose import OneOf, Shuffled, Sometimes
from degradations.draws import Params
from degradations.images import as_image, cropped, encode_png, read_image
from degradations.tools.configure import degradation_of, scale_in
from files.owned import refuse_folder, write_whole

GAP = 16  # pixels between tiles
_INK, _GREY, _PALE = (20, 20, 20), (95, 95, 95), (225, 225, 225)
_LETTER = 7  # mean width of a letter in pixels
_LINE = 17  # height of a line in pixels


@dataclass
class Tile:
    """An image with text beneath.

    image: The image at its own size; None leaves its place empty.
    title: One line.
    words: Further lines, wrapped to the width of the tile.
    """

    image: Image.Image | None
    title: str
    words: Sequence[str] = ()


@dataclass
class Section:
    """Tiles side by side under a heading; `side` is the size of their squares in pixels."""

    heading: str
    tiles: Sequence[Tile]
    side: int = 256


def sheet(sections: Sequence[Section], width: int = 8 * (192 + GAP) + GAP) -> Image.Image:
    """Draw all sections below each other in one image, `width` pixels wide."""
    parts = [part for section in sections for part in _rows(section, width)]
    drawing = Image.new("RGB", (width, sum(part.height for part in parts) + GAP), "white")
    top = 0
    for part in parts:
        drawing.paste(part, (0, top))
        top += part.height
    return drawing


def page(title: str, sections: Sequence[Section]) -> str:
    """Return a self-contained HTML page, images included.

    With the mouse over an image, all images of its section show the same place enlarged.
    """
    body = "".join(_html(section) for section in sections)
    return _PAGE.format(title=html.escape(title), body=body)


def paths_of(out: Path, inputs: Iterable[Path]) -> tuple[Path, Path]:
    """Return the paths of the PNG and the page, checked before any work.

    Args:
        out: Their path, with or without a suffix.
        inputs: Images that are read.

    Raises:
        ValueError: One would overwrite an input.
        IsADirectoryError: A folder is at one of the paths.
    """
    out = out.with_suffix("") if out.suffix in (".png", ".html") else out
    paths = (out.with_name(f"{out.name}.png"), out.with_name(f"{out.name}.html"))
    for path in paths:
        refuse_folder(path)
    real = {os.path.realpath(path) for path in inputs}
    for path in paths:
        if os.path.realpath(path) in real:
            raise ValueError(f"{path} is an input and would be overwritten: give another --out")
    return paths


def write(paths: tuple[Path, Path], title: str, sections: Sequence[Section]) -> None:
    """Write the PNG and the page.

    Args:
        paths: The result of `paths_of`.
        title: Title of the page.
        sections: The content.
    """
    write_whole(paths[0], encode_png(sheet(sections)))
    write_whole(paths[1], page(title, sections))


def _rows(section: Section, width: int) -> list[Image.Image]:
    heading, title, small = (ImageFont.load_default(size) for size in (22, 15, 13))
    top = Image.new("RGB", (width, 48), "white")
    ImageDraw.Draw(top).text((GAP, 14), section.heading, _INK, heading)
    rows = [top]
    columns = max(1, (width - GAP) // (section.side + GAP))
    letters = section.side // _LETTER
    for start in range(0, len(section.tiles), columns):
        tiles = section.tiles[start : start + columns]
        shown = [_shown(tile.image, section.side) for tile in tiles]
        texts = [
            [line for text in tile.words for line in textwrap.wrap(text, letters)] for tile in tiles
        ]
        high = max(image.height for image in shown)
        row = Image.new("RGB", (width, high + 40 + _LINE * max(map(len, texts))), "white")
        draw = ImageDraw.Draw(row)
        for column, (tile, image, lines) in enumerate(zip(tiles, shown, texts, strict=True)):
            left = GAP + column * (section.side + GAP)
            row.paste(image, (left, 0))
            draw.text((left, high + 5), textwrap.shorten(tile.title, letters), _INK, title)
            for number, line in enumerate(lines):
                draw.text((left, high + 24 + _LINE * number), line, _GREY, small)
        rows.append(row)
    return rows


def _shown(image: Image.Image | None, side: int) -> Image.Image:
    if image is None:
        empty = Image.new("RGB", (side, side), _PALE)
        ImageDraw.Draw(empty).line((0, side, side, 0), "white", 3)
        return empty
    factor = side / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    # Enlarged pixels stay squares.
    how = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BICUBIC
    return image.resize(size, how)


def _html(section: Section) -> str:
    tiles = []
    for tile in section.tiles:
        image = ""
        if tile.image is not None:
            data = base64.b64encode(encode_png(tile.image)).decode()
            size = f"{tile.image.width} x {tile.image.height} px"
            image = (
                f'<img alt="{html.escape(tile.title)}, {size}" src="data:image/png;base64,{data}">'
            )
        words = "<br>".join(html.escape(line) for line in tile.words)
        tiles.append(
            f'<figure style="width:{section.side}px"><div class="zoom">{image}</div>'
            f"<figcaption><b>{html.escape(tile.title)}</b><br>{words}</figcaption></figure>"
        )
    heading = html.escape(section.heading)
    return f"<section><h2>{heading}</h2><div>{''.join(tiles)}</div></section>\n"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 16px; color: #141414; background: #fff; }}
h1 {{ font-size: 22px; }} h2 {{ font-size: 18px; margin: 24px 0 8px; }}
section > div {{ display: flex; flex-wrap: wrap; gap: 16px; }}
figure {{ margin: 0; }} figcaption {{ color: #5f5f5f; overflow-wrap: anywhere; }}
figcaption b {{ color: #141414; }}
.zoom {{ overflow: hidden; aspect-ratio: 1; background: #e1e1e1; cursor: crosshair; }}
.zoom img {{ width: 100%; image-rendering: pixelated; display: block; }}
</style></head><body>
<h1>{title}</h1>
{body}<script>
for (const section of document.querySelectorAll("section")) {{
  const images = section.querySelectorAll(".zoom img");
  const show = (transform, origin) => images.forEach(image => {{
    image.style.transform = transform;
    image.style.transformOrigin = origin;
  }});
  images.forEach(image => {{
    const frame = image.parentElement;
    frame.addEventListener("mousemove", event => {{
      const box = frame.getBoundingClientRect();
      const x = 100 * (event.clientX - box.left) / box.width;
      const y = 100 * (event.clientY - box.top) / box.height;
      show("scale(4)", `${{x}}% ${{y}}%`);
    }});
    frame.addEventListener("mouseleave", () => show("", ""));
  }});
}}
</script></body></html>
"""


@dataclass
class Step:
    """One stage applied to one image.

    name: Names of the streams that lead to it, e.g. ``noise / gaussian``.
    stage: The stage.
    params: Its drawn parameters (arrays of one entry), without prepared ones.
    image: (1, C, H, W), its output; may overshoot [0, 1]. None if the stage was skipped.
    choices: Choices of the stages around it as text, outermost first.
    """

    name: str
    stage: Stage
    params: Params
    image: Tensor | None
    choices: list[str] = field(default_factory=list)


@dataclass
class Trace:
    """The steps of a degradation on one image.

    seed: Seed of the image.
    params: All drawn parameters.
    steps: The stages that were applied or skipped, first to last; empty for a degradation without
        stages.
    lr: (1, 3, h, w), the output of `degradation(hr, seeds)`.
    """

    seed: int
    params: Params
    steps: list[Step]
    lr: Tensor


@dataclass
class _Call:
    module: Stage
    path: str
    parent: _Call | None
    children: list[_Call] = field(default_factory=list)
    output: Tensor | None = None  # None if no inner stage ran


def trace(degradation: Degradation, hr: Tensor, seed: int) -> Trace:
    """Degrade one image, and collect the output of every stage.

    Hooks watch the stages, nothing runs twice: `Trace.lr` is bit-equal to the output of the
    degradation for this batch of one, by the executor ``images``.

    Args:
        degradation: The degradation.
        hr: (1, 3, H, W) float32 in [0, 1].
        seed: Seed of the image.
    """
    seeds = torch.tensor([seed])
    params = degradation.params_of(seeds, hr.shape)
    with _image_by_image(degradation), _watched(degradation) as calls, torch.no_grad():
        lr = degradation.replay(hr, params)  # not forward, which `Record` would record
    return Trace(seed, params, _steps(calls, params), lr)


@contextmanager
def _image_by_image(degradation: Degradation) -> Iterator[None]:
    # On a canvas all stages run on all images, which hides the path of an image.
    those = [module for module in degradation.modules() if hasattr(module, "executor")]
    before = [module.executor for module in those]
    for module in those:
        module.executor = "images"  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, executor in zip(those, before, strict=True):
            module.executor = executor


@contextmanager
def _watched(degradation: Degradation) -> Iterator[list[_Call]]:
    # One object may have several names, and is then called under each in turn.
    paths: dict[Stage, list[str]] = defaultdict(list)
    for path, module in degradation.named_modules(remove_duplicate=False):
        if isinstance(module, Stage):
            paths[module].append(path)
    outermost: list[_Call] = []
    open_calls: list[_Call] = []
    times: dict[Stage, int] = defaultdict(int)

    def before(module: Any, _: Any) -> None:
        parent = open_calls[-1] if open_calls else None
        names = paths[module]
        call = _Call(module, names[times[module] % len(names)], parent)
        times[module] += 1
        (parent.children if parent else outermost).append(call)
        open_calls.append(call)

    def after(module: Any, inputs: Any, output: Tensor) -> None:
        # A composed stage that returns its input has skipped its stages.
        composed = sum(isinstance(part, Stage) for part in module.modules()) > 1
        left_out = composed and output is inputs[0]
        open_calls.pop().output = None if left_out else output.detach().clone()

    handles = [
        handle
        for stage in paths
        for handle in (
            stage.register_forward_pre_hook(before),
            stage.register_forward_hook(after),
        )
    ]
    try:
        yield outermost
    finally:
        for handle in handles:
            handle.remove()


def stages_of(
    degradation: Degradation, params: Params
) -> Iterator[tuple[list[str], Stage | Degradation, Params]]:
    """Yield everything that draws, with inner stages: stream names, module, drawn parameters."""
    seen: list[Params] = []
    for path, module in degradation.named_modules(remove_duplicate=False):
        if isinstance(module, Stage | Degradation):
            names, own = _drawn_of(path, params)
            # A stage that another one uses internally has no parameters.
            if not any(own is other for other in seen):
                seen.append(own)
                yield names, module, own


def _steps(calls: list[_Call], params: Params) -> list[Step]:
    steps: list[Step] = []
    for call in calls:
        names, own = _drawn_of(call.path, params)
        for place, child in enumerate(call.children):
            inner = _steps([child], params)
            for step in inner:
                step.choices[:0] = _choice(call.module, own, child.path, place)
            steps += inner
        if not call.children:
            steps.append(Step(" / ".join(names) or call.path, call.module, own, call.output))
    return steps


def _drawn_of(path: str, params: Params) -> tuple[list[str], Params]:
    # Stream names are keys of the parameters; other parts of a module's path are attributes.
    names: list[str] = []
    for part in path.split("."):
        inner = params.get(part)
        if isinstance(inner, dict):
            names.append(part)
            params = inner
    shown = [name for name in names if name != "stage"]  # the only one of Sometimes
    return shown, params


def _choice(stage: Stage, params: Params, chosen: str, place: int) -> list[str]:
    if isinstance(stage, Sometimes):
        return [f"applied (probability {stage.p:.0%})"] if stage.p < 1 else []
    if isinstance(stage, OneOf):
        p = dict(zip(stage.stages, stage.p, strict=True))[chosen.rpartition(".")[2]]
        return [f"chosen of {len(stage.stages)} (probability {p:.0%})"]
    if isinstance(stage, Shuffled):
        return [f"number {place + 1} of {len(stage.stages)} in the drawn order"]
    return parameters_of(params)


def own_of(params: Params) -> Params:
    """Return the parameters of one number per image: no matrices, no seeds of noise fields."""
    inner = params.get("arguments")  # of the adapters
    own = {**params, **inner} if isinstance(inner, dict) else params
    return {
        name: value
        for name, value in own.items()
        if not isinstance(value, dict)
        and np.ndim(value) < 2
        and not name.endswith(("seed", "seeds"))
    }


def parameters_of(params: Params) -> list[str]:
    """Return names and values of one image's parameters, e.g. ``["quality 43", "grey False"]``."""
    values = {name: np.ravel(value)[0].item() for name, value in own_of(params).items()}
    return [
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    ]


def name_of(stage: Stage) -> str:
    """Return the class of a stage, or the name of what it adapts."""
    for argument in ("function", "transform", "augmentation"):
        adapted = getattr(stage, argument, None)
        if adapted is not None:
            return adapted if isinstance(adapted, str) else type(adapted).__name__
    return type(stage).__name__


log = logging.getLogger(__name__)
SIDE = 256  # of a tile, in pixels


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line; by default that of this process.

    Returns:
        0; 2 after an error, which is logged in one sentence.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if options.rows > options.draws:
            raise ValueError(f"--rows is {options.rows}, more than the --draws {options.draws}")
        paths = paths_of(options.out, [options.image])
        degradation = degradation_of(options.config, scale_of(options))
        image = read_image(options.image)
        hr = cropped(image, options.crop, options.at, str(options.image))
        seeds = range(options.seed, options.seed + options.draws)
        traces = [trace(degradation, hr, seed) for seed in tqdm(seeds, "draws", disable=None)]
        name = " with ".join(Path(path).stem for path in options.config)
        title = f"{name}, x{degradation.scale:g}, {options.image.name}"
        write(paths, title, preview(degradation, hr, traces, options.rows))
        for path in paths:
            log.info("%s", path)
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return 2
    return 0


def preview(
    degradation: Degradation, hr: Tensor, traces: Sequence[Trace], rows: int = 1
) -> list[Section]:
    """Return the sections of the sheet.

    Args:
        degradation: The traced degradation.
        hr: (1, 3, H, W), the image before it.
        traces: One per draw.
        rows: How many of them are shown stage by stage.
    """
    sections = [_stage_by_stage(hr, each) for each in traces[:rows]]
    grid = [Tile(as_image(each.lr), f"seed {each.seed}") for each in traces]
    side = max(1, round(192 / max(traces[0].lr.shape[-2:]))) * max(traces[0].lr.shape[-2:])
    kind = type(degradation).__name__
    heading = f"{len(traces)} draws of {kind} at scale {degradation.scale:g}"
    return [*sections, Section(heading, grid, min(side, 2 * SIDE))]


def _stage_by_stage(hr: Tensor, each: Trace) -> Section:
    tiles = [Tile(as_image(hr), "HR", [_size(hr)])]
    tiles += [_tile(number, step) for number, step in enumerate(each.steps, 1)]
    tiles.append(Tile(as_image(each.lr), "LR", [_size(each.lr), *parameters_of(each.params)]))
    return Section(f"Stage by stage, seed {each.seed}", tiles, SIDE)


def _tile(number: int, step: Step) -> Tile:
    title = f"{number}. {step.name}"
    if step.image is None:
        p = f" (probability {1 - step.stage.p:.0%})" if isinstance(step.stage, Sometimes) else ""
        return Tile(None, title, [f"skipped{p}", *step.choices])
    image = as_image(step.image)
    words = [name_of(step.stage), *parameters_of(step.params), *step.choices]
    return Tile(image, title, [*words, _size(step.image)])


def _size(image: Tensor) -> str:
    H, W = image.shape[-2:]
    return f"{H} x {W} px"


def positive(text: str) -> int:
    """Parse a positive integer, for argparse."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def scale_of(options: argparse.Namespace) -> float:
    """Return the scale of the command line, else of the configuration, else 4."""
    if options.scale is not None:
        return float(options.scale)
    found = scale_in(options.config)
    return 4.0 if found is None else found


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, which all tools have."""
    parser.add_argument(
        "--config",
        action="append",
        required=True,
        metavar="FILE",
        help="a degradation (class_path and init_args), or an experiment with the key degradation; "
        "of several, later ones win, as with main.py",
    )


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `degradations.tools.draws` has, too."""
    add_config_argument(parser)
    parser.add_argument(
        "--scale",
        type=float,
        metavar="X",
        help="how many times smaller the LR is (default: data.init_args.scale of the "
        "configuration, else 4)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the first draw (default: 0)"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py preview",
        description="Show what a degradation does to an image: the output of each stage with its "
        "drawn parameters, and a grid of draws. Writes a PNG, and an HTML page on which the mouse "
        "enlarges the same place in all images.",
        epilog="example: python main.py preview "
        "--config configs/degradation/real_esrgan.yaml photo.png --rows 3",
    )
    parser.add_argument("image", metavar="IMAGE", type=Path, help="an HR image")
    add_common_arguments(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("preview"),
        metavar="PATH",
        help="where to write PATH.png and PATH.html (default: preview)",
    )
    parser.add_argument(
        "--draws", type=positive, default=16, metavar="N", help="draws in the grid (default: 16)"
    )
    parser.add_argument(
        "--rows",
        type=positive,
        default=1,
        metavar="N",
        help="how many of them to show stage by stage (default: 1)",
    )
    parser.add_argument(
        "--crop",
        type=positive,
        default=256,
        metavar="PX",
        help="side of the square crop of the image (default: 256)",
    )
    parser.add_argument(
        "--at",
        type=int,
        nargs=2,
        metavar=("ROW", "COLUMN"),
        help="upper left corner of the crop (default: center crop)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
