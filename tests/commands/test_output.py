"""A command ends without a word when the reader of its output has seen enough."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import REPO


def test_a_reader_that_has_seen_enough() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, REPO / "main.py", "list", "methods"]
    ended = subprocess.run(command, check=False, text=True, stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (0, "")
