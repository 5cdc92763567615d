"""A contact sheet of a degradation: ``python -m degradations.preview --config FILE IMAGE``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from degradations.base import Degradation
from degradations.compose import Sometimes
from degradations.configure import degradation_of, scale_in
from degradations.pictures import as_image, cropped, read_picture
from degradations.sheet import Section, Tile, paths_of, write
from degradations.trace import Step, Trace, trace
from degradations.words import name_of, words_of

log = logging.getLogger(__name__)

SIDE = 256  # of a tile, in pixels


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line; by default those of this process.

    Returns:
        0, or 2 if something is wrong with what was asked for, which is logged in one sentence.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if options.rows > options.draws:
            raise ValueError(f"--rows is {options.rows}, more than the --draws {options.draws}")
        paths = paths_of(options.out, [options.image])
        degradation = degradation_of(options.config, scale_of(options))
        picture = read_picture(options.image)
        hr = cropped(picture, options.crop, options.at, str(options.image))
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
    """The sections of the sheet.

    Args:
        degradation: What was traced.
        hr: (1, 3, H, W), the picture that it was given.
        traces: Its ways through the degradation, one a draw.
        rows: How many of them are shown stage by stage.
    """
    sections = [_stage_by_stage(hr, each) for each in traces[:rows]]
    grid = [Tile(as_image(each.lr), f"seed {each.seed}", _digest(each)) for each in traces]
    side = max(1, round(192 / max(traces[0].lr.shape[-2:]))) * max(traces[0].lr.shape[-2:])
    kind = type(degradation).__name__
    heading = f"{len(traces)} draws of {kind} at scale {degradation.scale:g}"
    return [*sections, Section(heading, grid, min(side, 2 * SIDE))]


def _stage_by_stage(hr: Tensor, each: Trace) -> Section:
    tiles = [Tile(as_image(hr), "HR", [_size(hr)])]
    tiles += [_tile(number, step) for number, step in enumerate(each.steps, 1)]
    own = words_of(None, each.params)
    tiles.append(Tile(as_image(each.lr), "LR", [_size(each.lr), *own]))
    return Section(f"Stage by stage, seed {each.seed}", tiles, SIDE)


def _tile(number: int, step: Step) -> Tile:
    title = f"{number}. {step.name}"
    if step.picture is None:
        p = (
            f", as in {1 - step.stage.p:.0%} of pictures"
            if isinstance(step.stage, Sometimes)
            else ""
        )
        return Tile(None, title, [f"left out{p}", *step.choices])
    picture = as_image(step.picture)
    words = [name_of(step.stage), *words_of(step.stage, step.params), *step.choices]
    return Tile(picture, title, [*words, _size(step.picture)])


def _digest(each: Trace) -> list[str]:
    # One line a stage that ran.
    lines = []
    for step in each.steps:
        words = words_of(step.stage, step.params)
        if step.picture is not None and words:
            lines.append(f"{step.name}: {', '.join(words)}")
    return lines or words_of(None, each.params)


def _size(picture: Tensor) -> str:
    H, W = picture.shape[-2:]
    return f"{H} x {W} px"


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def scale_of(options: argparse.Namespace) -> float:
    """The scale of the command line, else of the configuration, else 4."""
    if options.scale is not None:
        return float(options.scale)
    found = scale_in(options.config)
    return 4.0 if found is None else found


def add_common_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Those that `degradations.stats` has as well."""
    parser.add_argument(
        "--config",
        action="append",
        required=True,
        metavar="FILE",
        help="a degradation (class_path and init_args), or an experiment whose key degradation is "
        "taken; give several and later ones win, as with main.py",
    )
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
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(out),
        metavar="PATH",
        help=f"where to write PATH.png and PATH.html (default: {out})",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m degradations.preview",
        description="Show what a degradation does to a picture: the picture, what each stage made "
        "of it with the parameters that were drawn, and a grid of draws; as a PNG and as an HTML "
        "page in one file, where the mouse enlarges the same place of all pictures.",
        epilog="example: python -m degradations.preview "
        "--config configs/degradation/real_esrgan.yaml photo.png --rows 3",
    )
    parser.add_argument("image", metavar="IMAGE", type=Path, help="an HR picture")
    add_common_arguments(parser, "preview")
    parser.add_argument(
        "--draws", type=positive, default=16, metavar="N", help="draws in the grid (default: 16)"
    )
    parser.add_argument(
        "--rows",
        type=positive,
        default=1,
        metavar="N",
        help="draws that are shown stage by stage (default: 1)",
    )
    parser.add_argument(
        "--crop",
        type=positive,
        default=256,
        metavar="PX",
        help="side of the square that is cut out of the picture (default: 256)",
    )
    parser.add_argument(
        "--at",
        type=int,
        nargs=2,
        metavar=("ROW", "COLUMN"),
        help="upper left corner of that square (default: the middle of the picture)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
