"""All that is to be measured on a GPU, one command after another: `make bench-gpu`.

Where there is none it prints the commands. Until one was had, `benchmarks/results/degradation.json`
counts the launches of a batch in the code that the compiler makes, and `sampling.json` the
operations of an image. Variables of the environment say where things are: ``ENLARGER_PEERS`` a
folder with checkouts of BasicSR and Real-ESRGAN, ``ENLARGER_DATA`` the images,
``ENLARGER_WEIGHTS`` the weights. A command that needs a folder or file which is not there is passed
over, and said to be; one that fails does not stop the others. Results of a CPU are kept: a GPU's
are in files of their own, ``*_cuda.json``, and its runs in folders of their own.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from benchmarks.miniature.jobs import REPOSITORY

BSDS, KODAK = "$ENLARGER_DATA/bsds400", "$ENLARGER_DATA/kodak24"
PEERS = ("$ENLARGER_PEERS/BasicSR", "$ENLARGER_PEERS/Real-ESRGAN")
CARS = "$ENLARGER_DATA/cifar10"
_SMALL = "configs/experiment/self_cascade_64"
_ROOT = "runs/cuda"
_BASE = f"{_ROOT}/self_cascade_64_base"
_TUNED = f"{_ROOT}/self_cascade_64_tuned"
_ON_BASE = f"--model.init_args.denoiser_weights {_BASE} --run.root {_ROOT}"
_BEDROOMS = "$ENLARGER_DATA/lsun_bedroom_128"


def missing(needs: Iterable[str]) -> list[str]:
    """Return the paths that do not exist, after filling in variables of the environment."""
    return [name for name in needs if not (REPOSITORY / os.path.expandvars(name)).exists()]


class Command(NamedTuple):
    """One of them.

    what: Is found out by it.
    words: Behind ``python``; ``$NAME`` stands for a variable of the environment.
    needs: Folders and files without which it is passed over.
    """

    what: str
    words: str
    needs: tuple[str, ...] = ()


COMMANDS = (
    Command("what can only be tested on a GPU", "-m pytest -q -m gpu"),
    Command(
        "degradation against Real-ESRGAN's code, launches, torch.compile, CUDA graphs, memory",
        "-m benchmarks.speed.degradation $ENLARGER_PEERS --device cuda",
        PEERS,
    ),
    Command(
        "sampling against plain loops, torch.compile, CUDA graphs, memory",
        "-m benchmarks.speed.sampling --device cuda --repeats 50",
    ),
    Command(
        "reading against the limit and other loaders",
        f"-m benchmarks.speed.streaming {BSDS} {KODAK} --device cuda",
        (BSDS, KODAK),
    ),
    Command("the training loop against Lightning's", "-m benchmarks.speed.loop --device cuda"),
    Command("InvSR at its full size: time and memory, part by part", "-m benchmarks.speed.invsr"),
    Command("NSARM at its full size: cache, prefill, memory", "-m benchmarks.speed.nsarm"),
    Command(
        "Self-Cascade's calls at SD 2.1's size: time and memory",
        "-m benchmarks.speed.self_cascade --device cuda",
    ),
    Command(
        "a larger training of Self-Cascade: its base",
        f"main.py fit --config {_SMALL}/base.yaml --run.root {_ROOT} "
        "--run.name self_cascade_64_base",
        (_BEDROOMS,),
    ),
    Command(
        "tuned",
        f"main.py fit --config {_SMALL}/tuned.yaml {_ON_BASE} --run.name self_cascade_64_tuned",
        (_BEDROOMS, _BASE),
    ),
    Command(
        "compared: tuned",
        f"main.py test --config {_SMALL}/tuned.yaml {_ON_BASE} --trainer.limit_test_batches 40 "
        f"--model.init_args.weights {_TUNED} --run.name self_cascade_64_tuned_test",
        (_BEDROOMS, _BASE, _TUNED),
    ),
    Command(
        "and without tuning",
        f"main.py test --config {_SMALL}/tf.yaml {_ON_BASE} --run.name self_cascade_64_tf_test",
        (_BEDROOMS, _BASE),
    ),
    Command(
        "the miniature on cars, trained ten times as long",
        "-m benchmarks.miniature cars --jobs 1 --steps 10",
        (CARS,),
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
        prog="python -m benchmarks.gpu", description="Measure all that wants a GPU."
    )
    parser.add_argument("--only", default="", metavar="WORD", help="commands with this word")
    wanted = parser.parse_args(arguments).only
    chosen = [command for command in COMMANDS if wanted in command.words]
    if not torch.cuda.is_available():
        sys.stdout.write("There is no GPU here. With one, this would run:\n")
        for command in chosen:
            needs = f"; needs {', '.join(command.needs)}" if command.needs else ""
            sys.stdout.write(f"\n# {command.what}{needs}\npython {command.words}\n")
        return 0
    return 1 if sum(failed(command) for command in chosen) else 0


def failed(command: Command) -> bool:
    """Run a command, unless something that it needs is not there; say how that went.

    Args:
        command: What is run.
    """
    if absent := missing(command.needs):
        sys.stdout.write(f"{command.what}: passed over, for there is no {', '.join(absent)}\n")
        return False
    begun = time.monotonic()
    words = [os.path.expandvars(word) for word in shlex.split(command.words)]
    status = subprocess.run([sys.executable, *words], cwd=REPOSITORY, check=False).returncode
    seconds = time.monotonic() - begun
    sys.stdout.write(f"{command.what}: status {status}, {seconds:.0f} s\n")
    return status != 0


if __name__ == "__main__":
    raise SystemExit(main())
