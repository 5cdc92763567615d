"""Measure on a GPU within a budget: `make bench-gpu BUDGET=480`.

Rows run in the order of their value, each in a process of its own with a limit of its own, as long
as the budget lasts; after each one ``runs/cuda/rows.json`` says how it ended, and a table at the
end says it for all. Rows that ended well at this commit are not repeated. Numbers are in
``benchmarks/results/*_cuda.json``, beside those of CPUs. Without a GPU the commands are printed.

Environment variables say where things are: ``ENLARGER_PEERS`` a folder with checkouts of BasicSR
and Real-ESRGAN, ``ENLARGER_DATA`` the images, ``ENLARGER_WEIGHTS`` the weights; a row without them
is skipped. ``ENLARGER_COMMIT`` names the commit of an unpacked checkout. ``--pretend`` runs each
row that can be small on the device of ``tests/gpu``, to find faults of these scripts without a GPU.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from benchmarks.report import REPOSITORY, machine, parser
from callbacks.provenance import commit

BSDS = "$ENLARGER_DATA/bsds400"
PEERS = ("$ENLARGER_PEERS/BasicSR", "$ENLARGER_PEERS/Real-ESRGAN")
DONE = REPOSITORY / "runs/cuda/rows.json"
LEAST = 15.0  # seconds without which no row is begun
PATIENCE = 8.0  # seconds between SIGTERM and SIGKILL


def missing(needs: Iterable[str]) -> list[str]:
    """Return the paths that do not exist, after filling in variables of the environment."""
    return [name for name in needs if not (REPOSITORY / os.path.expandvars(name)).exists()]


class Row(NamedTuple):
    """A measurement.

    name: Of the row.
    words: Its words after ``python``; ``$NAME`` stands for an environment variable.
    limit: Seconds after which it is stopped.
    needs: Folders and files without which it is skipped.
    small: Its arguments on the pretended device, after the module's name; None if it cannot be made
        that small.
    """

    name: str
    words: str
    limit: float = 60.0
    needs: tuple[str, ...] = ()
    small: str | None = None


SPEED = "-m benchmarks.speed"
FEW = "--device cpu --steps 20 --profile --workers 1 --precision 32-true --limit 500 --more "
ROWS = (
    Row(
        "degradation",
        f"{SPEED}.degradation $ENLARGER_PEERS --device cuda --draws 60 --usm-draws 15",
        120.0,
        PEERS,
        "$ENLARGER_PEERS --device cuda --draws 2 --usm-draws 1",
    ),
    Row(
        "training of ResShift",
        f"{SPEED}.training --only ResShift --device cuda --profile --limit 100",
        110.0,
        ("$ENLARGER_WEIGHTS/taef2_encoder.pth",),
        f"--only ResShift {FEW} '--data.batch_size 2'",
    ),
    Row(
        "training, compiled",
        f"{SPEED}.training --only ResShift-compiled --device cuda --profile --limit 120",
        130.0,
        ("$ENLARGER_WEIGHTS/taef2_encoder.pth",),
    ),
    Row(
        "tests",
        "-m pytest -q -m gpu -n 8 -p no:cacheprovider tests/contracts "
        "tests/lightning_modules/test_noise.py tests/lightning_modules/backbone/test_denoiser.py",
        90.0,
    ),
    Row("InvSR", f"{SPEED}.invsr", 90.0, small="--width 0.01 --side 32 --repeats 1 --float32"),
    Row(
        "training of the others",
        f"{SPEED}.training --only Real-ESRGAN CasArbi InvSR NSARM --device cuda --profile "
        "--limit 90",
        250.0,
        small=f"--only Real-ESRGAN {FEW} "
        "'--data.batch_size 4 --data.crop_size 32 --model.network.init_args.blocks 1'",
    ),
    Row("NSARM", f"{SPEED}.nsarm", 60.0, small="--width 0.0357 --depth 0.05 --repeats 1"),
    Row(
        "sampling",
        f"{SPEED}.sampling --device cuda --repeats 10",
        60.0,
        small="--device cuda --repeats 1 --side 64",
    ),
    Row(
        "reading",
        f"{SPEED}.streaming {BSDS} --device cuda --turns 1",
        60.0,
        (BSDS,),
        f"{BSDS} --device cuda --turns 1",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line; by default those of this process.

    Returns:
        0, or 1 where a command failed.
    """
    known = parser(__doc__)
    known.add_argument("--budget", type=float, default=480.0, help="seconds in all (480)")
    known.add_argument("--only", default="", metavar="WORD", help="rows with this word")
    known.add_argument("--pretend", action="store_true", help="small, on a pretended device")
    known.add_argument("--again", action="store_true", help="also rows that are done")
    options = known.parse_args(arguments)
    chosen = [row for row in ROWS if options.only in f"{row.name} {row.words}"]
    if options.pretend:
        return max(map(pretended, chosen))
    if not torch.cuda.is_available():
        sys.stdout.write("There is no GPU here. With one, this would run:\n")
        for row in chosen:
            needs = f"; needs {', '.join(row.needs)}" if row.needs else ""
            sys.stdout.write(f"\n# {row.name}: {row.limit:g} s{needs}\npython {row.words}\n")
        return 0
    ended = measured(chosen, options.budget, {} if options.again else read_done())
    for name, how in ended.items():
        sys.stdout.write(f"{name:24}{how}\n")
    return 0 if all(how.startswith("done") for how in ended.values()) else 1


def read_done() -> dict[str, Any]:
    """Return the rows that ended well at this commit."""
    if not DONE.is_file():
        return {}
    rows = json.loads(DONE.read_text(encoding="utf-8"))
    return {name: row for name, row in rows.items() if row["commit"] == commit()}


def measured(rows: Sequence[Row], budget: float, done: dict[str, Any]) -> dict[str, str]:
    """Run rows one after another, and say of each how it ended.

    Args:
        rows: In the order of their value.
        budget: Seconds for all.
        done: Rows that are not repeated; those that end well are added, and written to ``DONE``.
    """
    began, ended = time.monotonic(), {}
    for row in rows:
        if row.name in done:
            ended[row.name] = "done before"
            continue
        if absent := missing(row.needs):
            ended[row.name] = f"skipped: there is no {', '.join(absent)}"
            continue
        left = budget - (time.monotonic() - began)
        if left < LEAST:
            ended[row.name] = "not begun: the budget is spent"
            continue
        begun, limit = time.monotonic(), min(row.limit, left)
        words = [os.path.expandvars(word) for word in shlex.split(row.words)]
        status = _within(limit, [sys.executable, *words])
        seconds = round(time.monotonic() - begun)
        if status == 0:
            ended[row.name] = f"done in {seconds} s"
            done[row.name] = {"commit": commit(), "seconds": seconds, **machine()}
            DONE.parent.mkdir(parents=True, exist_ok=True)
            DONE.write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
        else:
            how = f"stopped after {limit:g} s" if status is None else f"status {status}"
            ended[row.name] = how
    return ended


def pretended(row: Row) -> int:
    """Run a row with small arguments on the pretended device; return its status."""
    if row.small is None:
        sys.stdout.write(f"{row.name}: skipped, it cannot be made that small\n")
        return 0
    if absent := missing(set(re.findall(r"\$ENLARGER_[\w/.-]+", row.small))):
        sys.stdout.write(f"{row.name}: skipped, there is no {', '.join(absent)}\n")
        return 0
    module = row.words.removeprefix("-m ").split()[0]
    words = [os.path.expandvars(word) for word in shlex.split(row.small)]
    command = [sys.executable, "-m", "tests.gpu.pretended", module, *words]
    status = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
    sys.stdout.write(f"{row.name}: status {status} on the pretended device\n")
    return status


def _within(limit: float, words: Sequence[str]) -> int | None:
    # The status; None if it took too long. All that it started is stopped with it.
    process = subprocess.Popen(words, cwd=REPOSITORY, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        return None
    finally:  # also of Ctrl-C, which reaches this process alone
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    raise SystemExit(main())
