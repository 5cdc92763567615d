"""A command ends without a word when the reader of its output has seen enough."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import main
from tests.conftest import REPO


def test_a_reader_that_has_seen_enough() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, REPO / "main.py", "list", "methods"]
    ended = subprocess.run(command, check=False, text=True, stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_another_broken_pipe_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: list[str]) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(main, "_set_paths", lambda: None)
    monkeypatch.setattr(main, "_run_alone", broken)
    with pytest.raises(BrokenPipeError):
        main.main(["pack"])
