"""Fixtures of the benchmarks' tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import REPO


@pytest.fixture
def accepted(enlarger: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Parse the words of a command of `main.py`, which need not find the data and runs it names."""
    monkeypatch.chdir(REPO)
    for name in ("DATA", "WEIGHTS"):
        monkeypatch.setenv(f"ENLARGER_{name}", name.lower())

    def parse(*words: str) -> None:
        with pytest.raises(SystemExit) as stopped:
            enlarger(*words, "--print_config")
        assert stopped.value.code in (0, None)

    return parse
