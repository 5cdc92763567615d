"""All that is to be measured on a GPU, one command after another: `make bench-gpu`.

Where there is none it prints the commands. Until one was had, `benchmarks/results/degradation.json`
counts the launches of a batch in the code that the compiler makes, and `sampling.json` the
operations of a picture. Variables of the environment say where things are: ``ENLARGER_PEERS`` a
folder with checkouts of BasicSR and Real-ESRGAN, ``ENLARGER_DATA`` the pictures. A command whose
folder is not there is passed over, and said to be; one that fails does not stop the others.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from benchmarks.miniature_jobs import REPOSITORY
from benchmarks.miniature_rows import METHODS

_SMALL = "configs/experiment/self_cascade_64"


class Command(NamedTuple):
    """One of them.

    what: Is found out by it.
    words: Behind ``python``; ``$NAME`` stands for a variable of the environment.
    """

    what: str
    words: str

    @property
    def needs(self) -> list[str]:
        """Variables of the environment."""
        return [word[1:].partition("/")[0] for word in self.words.split() if word[0] == "$"]


COMMANDS = (
    Command("what can only be tested on a GPU", "-m pytest -q -m gpu"),
    Command(
        "degradation against Real-ESRGAN's code, launches, torch.compile",
        "-m benchmarks.degradation $ENLARGER_PEERS --device cuda",
    ),
    Command("sampling against plain loops", "-m benchmarks.sampling --device cuda --repeats 50"),
    Command(
        "reading against the limit and other loaders",
        "-m benchmarks.streaming $ENLARGER_DATA/bsds400 $ENLARGER_DATA/kodak24",
    ),
    Command("the training loop against Lightning's", "-m benchmarks.loop"),
    Command("InvSR at its full size: time and memory, part by part", "-m benchmarks.invsr"),
    Command("NSARM at its full size: cache, prefill, memory", "-m benchmarks.nsarm"),
    Command("Self-Cascade's calls at SD 2.1's size", "-m benchmarks.self_cascade"),
    Command(
        "a larger training of Self-Cascade: its base", f"main.py fit --config {_SMALL}/base.yaml"
    ),
    Command("tuned", f"main.py fit --config {_SMALL}/tuned.yaml"),
    Command("and compared without tuning", f"main.py test --config {_SMALL}/tf.yaml"),
    *(
        Command(f"the miniature of {name}", f"-m benchmarks.miniature {name} --jobs 1")
        for name in METHODS
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
            sys.stdout.write(f"\n# {command.what}\npython {command.words}\n")
        return 0
    return 1 if sum(_failed(command) for command in chosen) else 0


def _failed(command: Command) -> bool:
    missing = [name for name in command.needs if not os.environ.get(name)]
    if missing:
        sys.stdout.write(f"{command.what}: passed over, for {', '.join(missing)} is not set\n")
        return False
    begun = time.monotonic()
    words = [os.path.expandvars(word) for word in shlex.split(command.words)]
    status = subprocess.run([sys.executable, *words], cwd=REPOSITORY, check=False).returncode
    seconds = time.monotonic() - begun
    sys.stdout.write(f"{command.what}: status {status}, {seconds:.0f} s\n")
    return status != 0


if __name__ == "__main__":
    raise SystemExit(main())
