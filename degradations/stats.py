"""What a degradation really draws, beside what its recipe says and beside real photographs.

``python -m degradations.stats --config FILE [--real FOLDER --hr FOLDER]``
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from degradations.base import Degradation, cut_size
from degradations.compare import compared, comparison, degraded, photographs
from degradations.configure import degradation_of
from degradations.histogram import BLUE, WIDTH, Values, aligned, bars, histogram
from degradations.pictures import list_pictures
from degradations.preview import add_common_arguments, positive, scale_of
from degradations.sheet import Section, Tile, paths_of, write
from degradations.trace import stages_of
from degradations.words import Bounds, bounds_of, own_of, unit_of

log = logging.getLogger(__name__)

CHUNK = 250  # images whose parameters are drawn at once
_TOLERANCE = 1e-9


@dataclass
class Parameter:
    """What was drawn of one parameter.

    name: Names of the streams that lead to it, and its own.
    unit: What its numbers count, e.g. ``px``; empty if they have none.
    values: (N,), of every image; also of images that did not use it.
    bounds: What the recipe allows, or None if that is not known.
    """

    name: str
    unit: str
    values: Values
    bounds: Bounds | None

    def outside(self) -> float | None:
        """Share of the values that the recipe does not allow; None if that is not known."""
        if self.bounds is None:
            return None
        low, high, only = self.bounds
        slack = _TOLERANCE * max(1.0, abs(low), abs(high))
        outside = (self.values < low - slack) | (self.values > high + slack)
        if only:
            outside |= ~np.isin(self.values, only)
        return float(outside.mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line; by default those of this process.

    Returns:
        0; 1 if something was drawn outside its range; 2 if something is wrong with what was asked
        for, which is logged in one sentence.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return _run(options)
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return 2


def _run(options: argparse.Namespace) -> int:
    if (options.real is None) != (options.hr is None):
        raise ValueError(
            "--real and --hr go together: photographs to compare with, and those to degrade"
        )
    folders = (options.real, options.hr)
    read = [path for folder in folders if folder is not None for path in list_pictures(folder)]
    paths = paths_of(options.out, read)
    degradation = degradation_of(options.config, scale_of(options))
    parameters = drawn(degradation, options.draws, options.crop, options.seed)
    name = " with ".join(Path(path).stem for path in options.config)
    title = f"{name}, x{degradation.scale:g}, {options.draws} draws"
    log.info("%s", table(parameters))
    sections = [
        Section(
            f"What was drawn: {title}",
            [Tile(histogram([(p.values, BLUE)], p.bounds), p.name, _words(p)) for p in parameters],
            WIDTH,
            exact=True,
            words=["Grey: the range that the recipe allows."],
        )
    ]
    if options.real is not None:
        size = cut_size((options.crop, options.crop), degradation.scale)[0]
        ours = degraded(degradation, options.hr, options.pictures, size, options.seed)
        real = photographs(options.real, options.pictures, round(size / degradation.scale))
        log.info("%s", comparison(ours, real))
        sections.append(compared(ours, real))
    write(paths, title, sections)
    for path in paths:
        log.info("%s", path)
    return 1 if any(parameter.outside() for parameter in parameters) else 0


def drawn(degradation: Degradation, draws: int, crop: int, seed: int = 0) -> list[Parameter]:
    """The parameters that a degradation draws, in the order of its stages.

    Seeds of noise fields are left out, and what is no single number an image (matrices, orders).

    Args:
        degradation: Any; one that draws once a batch is given batches of one image.
        draws: How many images.
        crop: Side in pixels of the HR that they would be of.
        seed: Of the first image; the others follow.
    """
    shared = any(getattr(module, "faithful", False) for module in degradation.modules())
    chunk = 1 if shared else CHUNK
    collected: dict[str, list[Values]] = {}
    known: dict[str, Parameter] = {}
    starts = range(seed, seed + draws, chunk)
    for start in tqdm(starts, "draws", unit_scale=chunk, disable=None):
        seeds = torch.arange(start, min(start + chunk, seed + draws))
        params = degradation.params_of(seeds, torch.Size((len(seeds), 3, crop, crop)))
        for names, stage, own in stages_of(degradation, params):
            for key, value in own_of(own).items():
                values = np.broadcast_to(np.asarray(value, np.float64), (len(seeds),))
                name = " / ".join([*names, key])
                if name not in known:
                    bounds = bounds_of(stage, key, (crop, crop))
                    known[name] = Parameter(name, unit_of(stage, key), values, bounds)
                collected.setdefault(name, []).append(values)
    for name, parts in collected.items():
        known[name].values = np.concatenate(parts)
    return list(known.values())


def table(parameters: Sequence[Parameter]) -> str:
    """One line a parameter: what was drawn, what is allowed, how much lies outside, how often."""
    rows = [("parameter", "drawn", "mean", "allowed", "outside", "how often")]
    for p in parameters:
        rows.append((p.name + (f" ({p.unit})" if p.unit else ""), *_row(p)))
    return aligned(rows)


def _row(p: Parameter) -> tuple[str, str, str, str, str]:
    outside = p.outside()
    return (
        f"{p.values.min():.4g} .. {p.values.max():.4g}",
        f"{p.values.mean():.4g}",
        _allowed(p.bounds),
        "-" if outside is None else f"{outside:.2%}",
        bars(p.values),
    )


def _allowed(bounds: Bounds | None) -> str:
    if bounds is None:
        return "unknown"
    if 0 < len(bounds.values) <= 3:
        return ", ".join(f"{value:.4g}" for value in bounds.values)
    return f"{bounds.low:.4g} .. {bounds.high:.4g}"


def _words(p: Parameter) -> list[str]:
    ends, mean, allowed, outside, _ = _row(p)
    unit = f" ({p.unit})" if p.unit else ""
    return [f"{ends}, mean {mean}{unit}", f"allowed {allowed}, outside {outside}"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m degradations.stats",
        description="Count what a degradation really draws and hold it against the ranges of its "
        "recipe; with --real and --hr, also estimate noise and blur of real photographs and of "
        "degraded ones, to see whether recipe and reality meet. A table on the screen, drawings "
        "in a PNG and an HTML page.",
        epilog="Exit status: 0 all within the ranges, 1 something was drawn outside, 2 nothing "
        "done. Noise is estimated from the diagonal Haar band (Donoho and Johnstone 1994), blur "
        "by blurring strong edges again (Zhuo and Sim 2011).",
    )
    add_common_arguments(parser, "stats")
    parser.add_argument(
        "--draws",
        type=positive,
        default=10000,
        metavar="N",
        help="images to draw parameters for (default: 10000)",
    )
    parser.add_argument(
        "--real", type=Path, metavar="FOLDER", help="photographs as they come, of the LR's kind"
    )
    parser.add_argument(
        "--hr", type=Path, metavar="FOLDER", help="sharp photographs, which are degraded"
    )
    parser.add_argument(
        "--pictures",
        type=positive,
        default=200,
        metavar="N",
        help="pictures of each kind to estimate noise and blur of, at most (default: 200)",
    )
    parser.add_argument(
        "--crop",
        type=positive,
        default=512,
        metavar="PX",
        help="side of the HR in pixels; of photographs the middle is used, and of real ones a "
        "middle as large as the LR (default: 512)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
