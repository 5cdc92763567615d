"""``main.py compare``: which differences between runs, or folders of images, are more than chance.

    python main.py compare runs/a runs/b
    python main.py compare runs/a runs/b runs/c --format latex
    python main.py compare outputs/a outputs/b --reference my/hr --scale 4

Folders hold outputs of methods, of this program or another, under the same names. They are measured
as ``main.py measure`` does, and their numbers compared as those of runs are.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from callbacks.results.compare import RUN, Run, Selection, compare, load_run
from callbacks.results.files import RESULTS
from callbacks.results.tables import as_latex, as_markdown, of_pair, of_runs, show
from commands.measure import add_options, measured
from commands.process import prepare_output
from commands.run.files import CONFIG

log = logging.getLogger(__name__)
FORMATS = {"markdown": as_markdown, "latex": as_latex}


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
    if are_runs:
        runs = [load_run(name) for name in options.runs]
    else:
        runs = [Run(name, measured(name, options)) for name in options.runs]
    selection = Selection(options.metric, options.dataset)
    if options.format:
        write = FORMATS[options.format]
        sys.stdout.write(write(*of_runs(runs, selection)))
    else:
        _show_pairs(runs, selection)
    return 0


def _show_pairs(runs: Sequence[Run], selection: Selection) -> None:
    """Print the comparisons of all runs with the first.

    Raises:
        ValueError: If nothing could be compared.
    """
    first, *others = runs
    if not others:
        raise ValueError(
            f"got one run; give two or more, or {first.name}@bicubic where it is a run"
        )
    for other in others:
        comparisons, left_out = compare(first, other, selection)
        for line in left_out:
            log.warning("%s", line)
        if not comparisons:
            raise ValueError(f"nothing of {first.name} and {other.name} is comparable")
        show(*of_pair(comparisons), title=f"A: {first.name}\nB: {other.name}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py compare",
        description="Compare runs by their numbers on the same images, or folders of images of "
        "the same names; all with the first.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"{RUN}; or a folder of images")
    parser.add_argument("--metric", action="append", default=[], help="only this; may be repeated")
    parser.add_argument("--dataset", action="append", default=[], help="only this; may be repeated")
    parser.add_argument("--format", choices=FORMATS, help="one table over all, for a paper")
    add_options(parser.add_argument_group("folders of images"))
    return parser


def _is_run(name: str) -> bool:
    """Return whether a name is of a run: its folder, file of results, or ``RUN@CHECKPOINT``."""
    path = Path(name if Path(name).exists() else name.rpartition("@")[0])
    return path.is_file() or any((path / file).exists() for file in (RESULTS, CONFIG))
