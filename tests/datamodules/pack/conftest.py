"""Fixtures of the packer's tests."""

from __future__ import annotations

import logging

import pytest

from datamodules.pack import options


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As the default: a worker takes longer to start than these images to pack; all is heard."""
    monkeypatch.setattr(options, "usable_cores", lambda: 0)
    caplog.set_level(logging.INFO)
