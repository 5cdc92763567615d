"""What the packer's tests share."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from datamodules.pack import options


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As the default: a worker takes longer to start than these images to pack; all is heard."""
    monkeypatch.setattr(options, "usable_cores", lambda: 0)
    caplog.set_level(logging.INFO)


def content(folder: Path) -> dict[str, Any]:
    """The files of a folder, without times of modification."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    for name in found:
        if name.endswith(".idx.json"):
            found[name] = {**json.loads(found[name]), "mtime_ns": 0}
    return found
