"""Draw a contact sheet of a degradation: ``python -m degradations.preview --config FILE IMAGE``."""

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
from degradations.pictures import as_image, cropped, read_image
from degradations.sheet import Section, Tile, paths_of, write
from degradations.trace import Step, Trace, name_of, parameters_of, trace

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


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `degradations.stats` has, too."""
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
        help="how many times smaller the LR is (default: data.init_args.scale of the "
        "configuration, else 4)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the first draw (default: 0)"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m degradations.preview",
        description="Show what a degradation does to an image: the output of each stage with its "
        "drawn parameters, and a grid of draws. Writes a PNG, and an HTML page on which the mouse "
        "enlarges the same place in all images.",
        epilog="example: python -m degradations.preview "
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
