"""Fixtures of the benchmarks' tests."""

from __future__ import annotations

import pytest

from tests.conftest import REPO


@pytest.fixture
def accepted(enlarger, monkeypatch):
    """Parse the words of a command of `main.py`, which need not find the data and runs it names."""
    monkeypatch.chdir(REPO)
    for name in ("DATA", "WEIGHTS"):
        monkeypatch.setenv(f"ENLARGER_{name}", name.lower())

    def parse(*words):
        with pytest.raises(SystemExit) as stopped:
            enlarger(*words, "--print_config")
        assert stopped.value.code in (0, None)

    return parse
