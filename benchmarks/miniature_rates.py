"""What a step of each tuned training costs: `python -m benchmarks.miniature_rates self_cascade`.

In CPU seconds, which depend little on what else runs: where rows are to have equal time, their
steps follow from this. Trains each twice, for a few steps and for some more, and takes the
difference: the start drops out, but how much it varies does not, a second or so: give ``--steps``
that are further apart where a step is quick. The base has as few, for its weights cost the same.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.miniature import Line
from benchmarks.miniature_jobs import REPOSITORY, run_jobs
from benchmarks.miniature_plan import Plan
from benchmarks.miniature_rows import METHODS
from benchmarks.miniature_spec import Method


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line; by default those of this process.

    Returns:
        0, or 1 where a training failed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.miniature_rates")
    parser.add_argument("method", choices=[n for n, method in METHODS.items() if tuned(method)])
    parser.add_argument("--steps", type=int, nargs=2, default=(4, 24), metavar=("FEW", "MORE"))
    options = parser.parse_args(arguments)
    few, more = options.steps
    if not 0 < few < more:
        parser.error("--steps must be two numbers above 0, the second one larger")
    # By an exception, which ends the training that runs.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        start, end = (costs(options.method, steps) for steps in (few, more))
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{report.machine()}\n")
    rates = {name: (more - few) / (end[name] - start[name]) for name in start}
    present = tuned(METHODS[options.method])
    seconds = statistics.fmean(steps / rates[name] for name, steps in present.items())
    for name, rate in rates.items():
        sys.stdout.write(
            f"{name}: {rate:.3f} steps a CPU second; {present[name]} are {present[name] / rate:.0f}"
            f" s, {rate * seconds:.0f} the mean of all rows, {seconds:.0f} s\n"
        )
    return 0


def tuned(method: Method) -> dict[str, int]:
    """Trainings on the base whose steps are set here, with those steps.

    Args:
        method: A miniature.
    """
    return {
        training.name: training.steps
        for training in method.trainings
        if training.verb == "fit" and training.needs == ("base",) and training.steps is not None
    }


def costs(name: str, steps: int) -> dict[str, float]:
    """CPU seconds of whole trainings of some steps, by training.

    Args:
        name: Of the miniature.
        steps: Of each, and of the base.

    Raises:
        RuntimeError: One failed.
    """
    method = METHODS[name]
    wanted = {f"fit {training}": training for training in tuned(method)}
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(name, method, Path(folder), REPOSITORY / method.data, (0,), steps)
        jobs = [job for job in plan.jobs() if job.name in ("fit base", *wanted)]
        line = Line()
        run_jobs(jobs, 1, line.show)
        line.end()
        found = {wanted[job.name]: job.note().cpu_seconds for job in jobs if job.name in wanted}
    return {training: seconds for training, seconds in found.items() if seconds is not None}


if __name__ == "__main__":
    raise SystemExit(main())
