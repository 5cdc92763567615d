"""Train for hours while things go wrong: `python -m benchmarks.soak --hours 2`, or `make soak`.

A small network trains on shards that a server on this machine hands out, on others that lie here,
and on one image that is broken; one crop of 4,000 is NaN. The run is started by one command, and
while it trains something happens to it every few minutes: see `faults.py`. Wherever it has
ended, the same command is typed again. In the end each batch and all that training goes on from
after it must be, bit for bit, what they are in a run of the same command that nothing happened to.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.report import RESULTS, write_report
from benchmarks.soak.faults import KINDS, Fault, Faults, disk, plan
from benchmarks.soak.numbers import (
    SETTLED,
    WARM,
    by_kind,
    compare,
    kinds_of,
    slopes,
    undecided,
    verdict,
)
from benchmarks.soak.run import Run, configure, prepare
from tests.datamodules.server import serving
from tests.distributed.records import assert_same

TRIAL = 60.0  # seconds of training that say how many steps fit into the time
ENDLESS = 10**7


def main(words: list[str] | None = None) -> int:
    """The command.

    Args:
        words: Of the command line; by default those of this process.

    Returns:
        0 if the soak went well; 1 if not, and what is wrong is said.
    """
    options = _options(words)
    # By an exception, which ends the runs.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    seconds = 3600 * options.hours if options.minutes is None else 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _say("packing photographs, and a trial of a minute")
        prepare(place, ENDLESS, options.seed)
        rate = batches_a_second(place)
        steps = max(50, round(rate * seconds))
        configure(place, steps, options.seed)
        faults = plan(KINDS, steps, rate * options.every, options.seed)
        _say(f"{steps} steps, {rate:.1f} a second, and {len(faults)} faults")
        results = soak(place, steps, faults, options.seed, beside=options.beside)
    write_report("soak", results, options.seed, options.out)
    for unknown in undecided(results["growth an hour"]):
        _say(f"not decided, the interval is too wide: {unknown}")
    for wrong in results["what is wrong"]:
        _say(wrong)
    return 1 if results["what is wrong"] else 0


def soak(
    place: Path,
    steps: int,
    faults: list[Fault],
    seed: int,
    beside: bool = False,
    seconds: float = 20.0,
) -> dict[str, Any]:
    """Train undisturbed and disturbed, and compare.

    Args:
        place: Folder of the shards and the configuration.
        steps: Of the training.
        faults: What is to happen.
        seed: Of what is left to chance in them.
        beside: Whether both train at the same time.
        seconds: Longest stall of the server; see `Faults`.

    Returns:
        What JSON holds.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        ours = stack.enter_context(serving(place / "served"))
        theirs = stack.enter_context(serving(place / "served"))
        small = stack.enter_context(disk(place / "harmed" / "runs"))
        if not small:
            faults = [fault for fault in faults if not fault.kind.startswith("disk")]
        whole = Run(place / "whole", theirs.url)
        harmed = Run(place / "harmed", ours.url)
        stack.callback(whole.end)
        stack.callback(harmed.end)
        whole.start()
        if not beside:
            _through(whole, steps, "undisturbed")
        with _bar(steps, "disturbed") as bar:

            def watch() -> None:
                _move(bar, harmed.place)
                whole.look()

            harmed.watch = watch
            recorded = _disturb(harmed, Faults(harmed, ours, steps, seed, seconds), faults, bar)
        _through(whole, steps, "undisturbed")
        minutes = (time.monotonic() - began) / 60
        warm, settled = min(WARM, 60 * minutes / 20), min(SETTLED, 60 * minutes / 8)
        results: dict[str, Any] = {
            "steps": steps,
            "minutes": round(minutes, 1),
            "starts": harmed.starts,
            "a disk of its own": small,
            "same": compare(harmed.folder, whole.folder),
            "final checkpoint is bit-equal": _same_end(harmed, whole),
            "faults": by_kind(recorded),
            "growth an hour": slopes(harmed.usage, whole.usage, warm, settled),
            "open files by what they are": {
                "undisturbed": kinds_of(whole.usage, warm),
                "disturbed": kinds_of(harmed.usage, warm),
            },
            "log": recorded,
        }
    return {**results, "what is wrong": verdict(results)}


def _disturb(run: Run, faults: Faults, planned: list[Fault], bar: Any) -> list[dict[str, Any]]:
    run.start()
    if not run.trains():
        raise RuntimeError(f"the run does not train:\n{run.said()}")
    faults.say = bar.write
    faults.happen(planned)
    faults.finish()
    return faults.recorded


def _through(run: Run, steps: int, name: str) -> None:
    with _bar(steps, name) as bar:
        run.watch = lambda: _move(bar, run.place)
        status = run.ended()
    if status:
        raise RuntimeError(f"the {name} run ended with status {status}:\n{run.said()}")


def _same_end(one: Run, other: Run) -> bool:
    try:
        assert_same(one.directory, other.directory)
    except AssertionError as error:
        _say(str(error))
        return False
    return True


def batches_a_second(place: Path) -> float:
    """How fast the training goes, by a trial.

    Args:
        place: As for `soak`; its configuration's `max_steps` is not reached.
    """
    with serving(place / "served") as server:
        run = Run(place / "trial", server.url)
        run.start()
        try:
            if not run.trains(20):
                raise RuntimeError(f"the run does not train:\n{run.said()}")
            before, begun = run.place, time.monotonic()
            run.wait(lambda: time.monotonic() > begun + TRIAL, "the trial to be over")
            return (run.place - before) / (time.monotonic() - begun)
        finally:
            run.end()


def _bar(steps: int, name: str) -> Any:
    return tqdm(total=steps, desc=name, unit=" batches", mininterval=1.0, disable=None)


def _move(bar: Any, place: int) -> None:
    bar.update(place - bar.n)  # also back, after a SIGKILL


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description="Train while things go wrong, and compare with an undisturbed run.",
    )
    parser.add_argument("--hours", type=float, default=2.0, help="of undisturbed training")
    parser.add_argument("--minutes", type=float, help="instead of --hours")
    parser.add_argument("--every", type=float, default=150.0, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=0, help="of the training and the faults")
    parser.add_argument("--beside", action="store_true", help="both runs at once, on two cores")
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.json", help="the JSON")
    return parser.parse_args(words)


if __name__ == "__main__":
    raise SystemExit(main())
