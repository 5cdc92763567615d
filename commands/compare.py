"""``main.py compare``: which differences between runs, or folders of images, are more than chance.

    python main.py compare runs/a runs/b
    python main.py compare runs/a runs/b runs/c --format latex
    python main.py compare outputs/a outputs/b --reference my/hr --scale 4

Folders hold outputs of methods, of this program or another, under the same names. They are measured
as ``main.py measure`` does, and their numbers compared as those of runs are.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

from callbacks.results import compare as runs
from callbacks.results import grid
from callbacks.results.files import RESULTS, ImageNumbers, Result
from commands.measure import add_options, measured
from commands.process import prepare_output
from commands.run.files import CONFIG

DATASET = "images"


def main(words: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        words: Command-line arguments; those of this process by default.

    Returns:
        0.

    Raises:
        FileNotFoundError: If a run has no results.
        ValueError: If there is nothing to compare, or folders cannot be measured.
    """
    options = _parser().parse_args(words)
    prepare_output()
    are_runs = any(map(_is_run, options.runs))
    read = runs.load_run if are_runs else partial(_measured, options=options)
    loaded = [read(name) for name in options.runs]
    selection = runs.Selection(options.metric, options.dataset)
    if options.format:
        numbers = grid.columns(loaded, selection)
        sys.stdout.write(grid.grid(options.runs, numbers, options.format))
    else:
        runs.show(loaded, selection)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py compare",
        description="Compare runs by their numbers on the same images, or folders of images of "
        "the same names; all with the first.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"{runs.RUN}; or a folder of images")
    parser.add_argument("--metric", action="append", default=[], help="only this; may be repeated")
    parser.add_argument("--dataset", action="append", default=[], help="only this; may be repeated")
    parser.add_argument("--format", choices=grid.FORMATS, help="one table over all, for a paper")
    add_options(parser.add_argument_group("folders of images"))
    return parser


def _is_run(name: str) -> bool:
    path = Path(name if Path(name).exists() else name.rpartition("@")[0])
    return path.is_file() or any((path / file).exists() for file in (RESULTS, CONFIG))


def _measured(name: str, options: argparse.Namespace) -> runs.RunNumbers:
    results: list[Result] = []
    images: list[ImageNumbers] = []
    for metric, number in measured(name, options).items():
        place = {
            **{"dataset": DATASET, "scale": options.scale, "metric": metric, "checkpoint": None},
            "protocol": number["protocol"],
        }
        values = number["images"]
        result = {**place, "value": number["value"], "n": len(values) or number["n"]}
        if number["higher_is_better"] is not None:
            result["higher_is_better"] = number["higher_is_better"]
        if lost := sum(not math.isfinite(value) for value in values.values()):
            result["not_finite"] = lost
        results.append(cast(Result, result))
        if values:
            images.append(cast(ImageNumbers, {**place, "seed": None, "values": values}))
    return runs.RunNumbers(name, Path(name), results, images)
