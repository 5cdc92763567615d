"""Train a method small, compare it, print what holds: `python -m benchmarks.miniature casarbi`.

Trains what is missing with the command line itself (`main.py fit`), evaluates each row of the
method's table (`main.py test`), and writes `benchmarks/results/<method>_miniature.json`, a picture
beside it, and the table into `docs/methods/<method>.md`, between its two marks. A second call does
only what is missing. `--help` says which pictures and weights a method needs.

With several times the steps, or on a GPU, runs have a folder of their own, and only JSON is
written, beside that of the normal training.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from benchmarks import report
from benchmarks.miniature.jobs import REPOSITORY, missing, run_jobs
from benchmarks.miniature.plan import Plan
from benchmarks.miniature.rows import METHODS, kind_of
from callbacks.files import commit
from files.owned import write_whole

MARKS = ("<!-- miniature -->", "<!-- end of miniature -->")
PLACES = ("--runs", "--jobs", "--out")  # say where and how, not what


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line; by default those of this process.

    Returns:
        0, or 1 where a command failed, or where something is not there that all rows need.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _options(words)
    method = METHODS[options.method]
    seeds = tuple(sorted(options.seeds))
    if seeds != tuple(range(seeds[0], seeds[0] + len(seeds))):
        sys.stderr.write(f"--seeds is {options.seeds}; expected consecutive ones, as 0 1 2\n")
        return 1
    if not options.only and options.data is None and (absent := missing(method.needs)):
        sys.stderr.write(f"{options.method} needs {', '.join(absent)}: not there (see --help)\n")
        return 1
    plan = Plan(
        options.method,
        method,
        options.runs,
        options.data or REPOSITORY / method.data,
        seeds,
        options.steps,
        tuple(options.only),
        longer=options.longer,
        device=report.device(),
    )
    if plan.variant:
        plan = plan._replace(runs=options.runs / plan.variant)
    plan.table.mkdir(parents=True, exist_ok=True)
    line = Line()
    # By an exception, which ends the commands that run.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with FileLock(plan.table / "lock", timeout=0):
            run_jobs(plan.jobs(), options.jobs, line.show)
    except Timeout:
        sys.stderr.write(f"another command fills {plan.table}: wait for it, or name other --runs\n")
        return 1
    except (RuntimeError, ValueError) as error:
        line.end()
        sys.stderr.write(f"{error}\n")
        return 1
    line.end()
    write(plan.measured(), _said(words), options.out)
    return 0


def write(plan: Plan, said: Sequence[str], folder: Path) -> None:
    """Write JSON and picture, and the page where the folder is that of all results.

    Of a variant only JSON.

    Args:
        plan: Its commands are done.
        said: The command's arguments, for the report.
        folder: Where to.
    """
    found = {
        "command": shlex.join([*report.settings(), "python", "-m", "benchmarks.miniature", *said]),
        "commit": commit(),
        "machine": report.machine(),
        "seed": plan.seeds[0],
        "results": kind_of(plan.method).collect(plan),
    }
    variant = plan.variant and f"_{plan.variant}"
    path = folder / f"{plan.name}_miniature{variant}.json"
    write_whole(path, json.dumps(found, indent=1, allow_nan=False) + "\n")
    if plan.variant:
        sys.stdout.write(f"{path}\n")
        return
    picture = kind_of(plan.method).draw(plan, path.with_suffix(".png"))
    text = kind_of(plan.method).markdown(found, plan.name)
    page = REPOSITORY / "docs" / "methods" / f"{plan.name}.md"
    if folder == report.RESULTS and page.is_file():
        write_whole(page, report.placed(page.read_text(encoding="utf-8"), text, MARKS))
    sys.stdout.write(f"{text}\n{path}\n{picture or 'no picture: some of its rows are missing'}\n")


def _options(words: Sequence[str]) -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.miniature",
        description="Train a method's miniature, compare its rows, and print what holds.",
        epilog="what they need (docs/results.md says how it is laid out):\n"
        + "".join(f"  {name:<20}{' '.join(method.needs)}\n" for name, method in METHODS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="run these rows only")
    parser.add_argument("--steps", type=int, help="of each training, for a quick look")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="consecutive")
    parser.add_argument("--longer", type=int, default=1, help="times the steps of each training")
    parser.add_argument("--data", type=Path, help="test data instead of the method's")
    parser.add_argument("--out", type=Path, default=report.RESULTS, help="for JSON and picture")
    parser.add_argument("--jobs", type=int, default=2, help="commands beside one another")
    options = parser.parse_args(words)
    known = [row.name for row in METHODS[options.method].rows]
    if unknown := [name for name in options.only if name not in known]:
        parser.error(f"--only has {', '.join(unknown)}; there are {', '.join(known)}")
    if options.jobs < 1 or (options.steps is not None and options.steps < 1):
        parser.error("--jobs and --steps must be at least 1")
    if options.longer < 1:
        parser.error("--longer must be at least 1")
    return options


def _said(words: Sequence[str]) -> list[str]:
    """The arguments without those that name places on this machine."""
    kept, skip = [], False
    for word in words:
        if not skip and word.partition("=")[0] not in PLACES:
            kept.append(word)
        skip = word in PLACES
    return kept


class Line:
    """One line of progress: rewritten on a terminal, written where it changes elsewhere."""

    def __init__(self) -> None:
        self.begun, self.latest = time.monotonic(), ""

    def show(self, text: str) -> None:
        """Write what is done and what runs.

        Args:
            text: Of one line.
        """
        if sys.stderr.isatty():
            minutes, seconds = divmod(int(time.monotonic() - self.begun), 60)
            width = os.get_terminal_size(sys.stderr.fileno()).columns
            sys.stderr.write(f"\r{f'{minutes}:{seconds:02d} {text}'[: width - 1]:<{width - 1}}")
        elif text != self.latest:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
        self.latest = text

    def end(self) -> None:
        """Leave it as it is, for what is written next."""
        if sys.stderr.isatty():
            sys.stderr.write("\n")


if __name__ == "__main__":
    raise SystemExit(main())
