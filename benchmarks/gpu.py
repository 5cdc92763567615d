"""Run all GPU measurements, one command after another: `make bench-gpu`.

Without a GPU it prints the commands. Until there are GPU results, `degradation.json` of
`benchmarks/results` counts the launches of a batch in the code that the compiler makes, and
`sampling.json` the operations of an image. Environment variables say where things are:
``ENLARGER_PEERS`` a folder with checkouts of BasicSR and Real-ESRGAN, ``ENLARGER_DATA`` the images,
``ENLARGER_WEIGHTS`` the weights. A command whose folder or file is missing is skipped with a
message; one that fails does not stop the others. CPU results are kept: GPU results have files of
their own, ``*_cuda.json``.

A command gets ten minutes, or ``--limit``, and is then stopped. ``runs/cuda/done.json`` has those
that ended well at this commit, which are not repeated. ``--pretend`` runs each command that can be
small on the device of ``tests/gpu``, to find faults in these scripts where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.report import REPOSITORY, machine
from callbacks.files import commit

BSDS, KODAK = "$ENLARGER_DATA/bsds400", "$ENLARGER_DATA/kodak24"
PEERS = ("$ENLARGER_PEERS/BasicSR", "$ENLARGER_PEERS/Real-ESRGAN")
_ROOT = "runs/cuda"
DONE = REPOSITORY / _ROOT / "done.json"
LIMIT = 600.0  # seconds


def missing(needs: Iterable[str]) -> list[str]:
    """Return the paths that do not exist, after filling in variables of the environment."""
    return [name for name in needs if not (REPOSITORY / os.path.expandvars(name)).exists()]


class Command(NamedTuple):
    """A measurement.

    what: What it measures.
    words: Its words after ``python``; ``$NAME`` stands for an environment variable.
    needs: Folders and files without which it is skipped.
    small: Its arguments on the pretended device, after the module's name; None if it cannot be made
        that small, or needs data.
    why: The reason for None.
    """

    what: str
    words: str
    needs: tuple[str, ...] = ()
    small: str | None = None
    why: str = "it needs its data"


COMMANDS = (
    Command(
        "what can only be tested on a GPU",
        "-m pytest -q -m gpu",
        why="tests/test_pretended_gpu.py runs what the pretended device can tell",
    ),
    Command(
        "degradation against Real-ESRGAN's code, launches, torch.compile, CUDA graphs, memory",
        "-m benchmarks.speed.degradation $ENLARGER_PEERS --device cuda",
        PEERS,
        "$ENLARGER_PEERS --device cuda --draws 2 --usm-draws 1",
    ),
    Command(
        "sampling against plain loops, torch.compile, CUDA graphs, memory",
        "-m benchmarks.speed.sampling --device cuda --repeats 50",
        small="--device cuda --repeats 1 --side 64",
    ),
    Command(
        "reading against the limit and other loaders",
        f"-m benchmarks.speed.streaming {BSDS} {KODAK} --device cuda",
        (BSDS, KODAK),
        f"{BSDS} {KODAK} --device cuda --turns 1",
    ),
    Command(
        "InvSR at its full size: time and memory, part by part",
        "-m benchmarks.speed.invsr",
        small="--width 0.01 --side 32 --repeats 1",
    ),
    Command(
        "NSARM at its full size: cache, prefill, memory",
        "-m benchmarks.speed.nsarm",
        small="--width 0.0357 --depth 0.05 --repeats 1",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line; by default those of this process.

    Returns:
        0, or 1 where a command failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="Run all GPU measurements."
    )
    parser.add_argument("--only", default="", metavar="WORD", help="commands with this word")
    parser.add_argument("--pretend", action="store_true", help="small, on a pretended device")
    parser.add_argument("--again", action="store_true", help="also finished commands")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds that a command gets")
    options = parser.parse_args(arguments)
    chosen = [command for command in COMMANDS if options.only in command.words]
    if options.pretend:
        return 1 if sum(failed_pretending(command) for command in chosen) else 0
    if not torch.cuda.is_available():
        sys.stdout.write("There is no GPU here. With one, this would run:\n")
        for command in chosen:
            needs = f"; needs {', '.join(command.needs)}" if command.needs else ""
            sys.stdout.write(f"\n# {command.what}{needs}\npython {command.words}\n")
        return 0
    done = {} if options.again else read_done()
    return 1 if sum(failed(command, done, options.limit) for command in chosen) else 0


def read_done() -> dict[str, Any]:
    """Return what ended well at this commit, by its words; see ``failed``."""
    if not DONE.is_file():
        return {}
    found = json.loads(DONE.read_text(encoding="utf-8"))
    return {words: row for words, row in found.items() if row["commit"] == commit()}


def failed(command: Command, done: dict[str, Any], limit: float = LIMIT) -> bool:
    """Run a command, unless it is done or something that it needs is missing; say how that went.

    Args:
        command: What is run.
        done: Those that are; this one is added, and all are written to ``DONE``.
        limit: Seconds after which it is stopped, to be continued.

    Returns:
        Whether it has to be run again.
    """
    if _skipped(command.what, command.needs):
        return False
    if command.words in done:
        sys.stdout.write(f"{command.what}: done before, in {done[command.words]['seconds']} s\n")
        return False
    begun = time.monotonic()
    words = [os.path.expandvars(word) for word in shlex.split(command.words)]
    status = _within(limit, [sys.executable, *words])
    seconds = round(time.monotonic() - begun)
    if status is None:
        sys.stdout.write(f"{command.what}: stopped after {limit:g} s\n")
        return True
    sys.stdout.write(f"{command.what}: status {status}, {seconds} s\n")
    if status == 0:
        done[command.words] = {"commit": commit(), "seconds": seconds, **machine()}
        DONE.parent.mkdir(parents=True, exist_ok=True)
        DONE.write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
    return status != 0


def failed_pretending(command: Command) -> bool:
    """Run a command with small arguments on the pretended device; say how that went.

    Args:
        command: What is run.
    """
    if command.small is None:
        sys.stdout.write(f"{command.what}: skipped, because {command.why}\n")
        return False
    if _skipped(command.what, set(re.findall(r"\$ENLARGER_[\w/.-]+", command.small))):
        return False
    module = command.words.removeprefix("-m ").split()[0].removesuffix(".py")
    words = [os.path.expandvars(word) for word in shlex.split(command.small)]
    pretended = [sys.executable, "-m", "tests.gpu.pretended", module, *words]
    status = subprocess.run(pretended, cwd=REPOSITORY, check=False).returncode
    sys.stdout.write(f"{command.what}: status {status} on the pretended device\n")
    return status != 0


def _skipped(what: str, needs: Iterable[str]) -> bool:
    absent = missing(needs)
    if absent:
        sys.stdout.write(f"{what}: skipped, because there is no {', '.join(absent)}\n")
    return bool(absent)


def _within(limit: float, words: Sequence[str]) -> int | None:
    # The status; None if it took too long. All that it started is stopped with it.
    process = subprocess.Popen(words, cwd=REPOSITORY, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        return None
    except BaseException:  # Ctrl-C reaches this process alone
        os.killpg(process.pid, signal.SIGTERM)
        raise


if __name__ == "__main__":
    raise SystemExit(main())
