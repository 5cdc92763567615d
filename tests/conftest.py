"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


def _root(variable: str, folder: str) -> Path:
    for candidate in (os.environ.get(variable), REPO.parent / "shared" / folder):
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    pytest.skip(f"needs ${variable}, which is not set")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of test photographs (set5, set14, kodak24, ...), or skip."""
    return _root("ENLARGER_DATA", "images")


@pytest.fixture(scope="session")
def weights_root() -> Path:
    """The folder of published weights (imdn-x2.pth, ...), or skip."""
    return _root("ENLARGER_WEIGHTS", "weights")
