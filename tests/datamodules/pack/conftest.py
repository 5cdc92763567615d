"""Fixtures of the packer's tests."""

from __future__ import annotations

import pytest

from datamodules.pack import options


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the default: a worker takes longer to start than these images to pack."""
    monkeypatch.setattr(options, "usable_cores", lambda: 0)
