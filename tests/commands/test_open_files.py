"""The limit of open files is raised."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands.process import MOST

FILES = resource.RLIMIT_NOFILE


@pytest.fixture
def low() -> Iterator[int]:
    """Set a soft limit that may be raised; return the hard one."""
    soft, hard = resource.getrlimit(FILES)
    if 0 <= hard <= 512:
        pytest.skip("this machine has too low a limit")
    resource.setrlimit(FILES, (512, hard))
    yield hard
    resource.setrlimit(FILES, (soft, hard))


def test_a_command_raises_it(low: int, tiny: Path, refusal: Any) -> None:
    refusal("fit", "--config", "tiny.yaml", "--trainer.max_steps", "many")  # the parser's error
    assert resource.getrlimit(FILES) == (MOST if low < 0 else min(low, MOST), low)
