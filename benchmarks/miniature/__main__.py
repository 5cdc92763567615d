"""Every method on small cars, beside its controls: `python -m benchmarks.miniature cars`.

Writes CIFAR-10's automobiles into a folder, trains what the table asks for (`main.py fit`), tests
each row (`main.py test`), and writes `cars.json`, `cars.webp` and `cars_front.webp` into
`benchmarks/results/`, the tables into `docs/cars.md`, and a summary into `README.md`. What is done
is not done again: a second call goes on where the first one ended.

With `--steps` or `--only`, everything is written into the folder of the runs instead.
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

from filelock import FileLock, Timeout

from benchmarks import report
from benchmarks.miniature import report as tables
from benchmarks.miniature import sheet
from benchmarks.miniature.data import VARIABLE, write_images
from benchmarks.miniature.jobs import REPOSITORY, run_jobs
from benchmarks.miniature.table import Plan, load
from callbacks.files import commit
from files.owned import write_whole

MARKS = ("<!-- cars -->", "<!-- end of cars -->")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Arguments of the command line; by default those of this process.

    Returns:
        0, or 1 if a command failed or the folder is in use.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _options(words)
    runs: Path = options.runs or Path(
        "runs", "cars" if options.steps == 1 else f"cars_{options.steps:g}"
    )
    plan = Plan(load(), runs, options.seeds, options.steps, tuple(options.only))
    if options.dry_run:
        for job in plan.jobs():
            sys.stdout.write(shlex.join(["python", "main.py", *job.arguments]) + "\n")
        return 0
    runs.mkdir(parents=True, exist_ok=True)
    line = Line()
    # An exception ends the running commands.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with FileLock(runs / "lock", timeout=0):
            data = write_images(plan.data)
            environment = {VARIABLE: str(plan.data.resolve())}
            run_jobs(plan.jobs(), options.jobs, line.show, environment)
            line.end()
            write(plan, data, words)
    except Timeout:
        sys.stderr.write(f"another command fills {runs}: wait for it, or name other --runs\n")
        return 1
    except (RuntimeError, ValueError) as error:
        line.end()
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def write(plan: Plan, data: str, words: Sequence[str]) -> None:
    """Write JSON and image, and the page's tables if all rows had all their steps.

    Args:
        plan: Its commands are done.
        data: Where the images are from.
        words: The command's arguments, for the report.
    """
    whole = not plan.only and plan.steps == 1
    folder = report.RESULTS if whole else plan.runs
    found = {
        "command": shlex.join([*report.settings(), "python", "-m", "benchmarks.miniature", *words]),
        "commit": commit(),
        "machine": report.machine(),
        "seed": 0,
        "results": tables.collect(plan, data),
    }
    write_whole(folder / "cars.json", json.dumps(found, indent=1, allow_nan=False) + "\n")
    sheet.draw(plan, folder / "cars.webp", folder / "cars_front.webp")
    text = tables.markdown(found)
    if whole:
        for page, part in (("docs/cars.md", text), ("README.md", tables.summary(found))):
            content = (REPOSITORY / page).read_text(encoding="utf-8")
            write_whole(REPOSITORY / page, report.placed(content, part, MARKS))
    sys.stdout.write(f"{text}\n{folder / 'cars.json'}\n{folder / 'cars.webp'}\n")


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.miniature",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("miniature", choices=["cars"])
    parser.add_argument("--runs", type=Path, help="folder of all that is made; runs/cars")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="these rows only")
    parser.add_argument("--steps", type=float, default=1.0, help="factor of all steps, as 0.01")
    parser.add_argument("--seeds", type=int, default=3, help="number of sampling seeds")
    parser.add_argument("--jobs", type=int, default=2, help="commands side by side")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    options = parser.parse_args(words)
    known = [row.name for row in load().rows]
    if unknown := [name for name in options.only if name not in known]:
        parser.error(f"--only has {', '.join(unknown)}; expected some of {', '.join(known)}")
    if options.jobs < 1 or options.seeds < 1 or options.steps <= 0:
        parser.error("--jobs and --seeds must be at least 1, and --steps above 0")
    return options


class Line:
    """One line of progress: rewritten on a terminal, else written where it changes."""

    def __init__(self) -> None:
        self.begun, self.latest = time.monotonic(), ""

    def show(self, text: str) -> None:
        """Write what is done and what runs.

        Args:
            text: The line.
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
        """Leave the line as it is."""
        if sys.stderr.isatty():
            sys.stderr.write("\n")


if __name__ == "__main__":
    raise SystemExit(main())
