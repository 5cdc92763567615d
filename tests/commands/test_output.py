"""Needless messages of libraries are hidden; a command continues without its output's reader."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import REPO

WRITES = """
import sys
from commands.process import ignore_broken_pipe
ignore_broken_pipe()
ignore_broken_pipe()
for _ in range(100_000):
    print("a line")
sys.stdout.flush()
sys.stderr.write("still here")
"""


def program(text: str, stdout: int) -> tuple[int, str]:
    """Return status and error output of a program in the repository."""
    ended = subprocess.run(
        [sys.executable, "-c", text],
        cwd=REPO,
        check=False,
        text=True,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )
    return ended.returncode, ended.stderr


def test_a_reader_that_has_seen_enough_ends_nothing() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    assert program(WRITES, writes) == (0, "still here")
    os.close(writes)
