"""Needless messages of libraries are hidden; a command continues without its output's reader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

FULL = Path("/dev/full")  # every write to it fails as on a full disk
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
INTERRUPTED = """
import sys
import main

class Interrupts:
    def find_spec(self, name, *_):
        if name == "lightning":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
main.main(["fit", "--config", "configs/experiment/quickstart.yaml"])
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


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_an_output_that_a_full_disk_does_not_take_is_an_error() -> None:
    with FULL.open("w") as full:
        status, said = program(WRITES, full.fileno())
    assert status != 0
    assert "No space left on device" in said


@pytest.mark.slow
def test_ctrl_c_while_packages_are_imported() -> None:
    assert program(INTERRUPTED, subprocess.DEVNULL) == (130, "stopped by SIGINT\n")
