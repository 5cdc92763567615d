"""What the packer's tests share."""

import json

import pytest

from datamodules.pack import options


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch, caplog):
    """A worker takes longer to start than these images to pack; all is heard."""
    monkeypatch.setattr(options, "usable_cores", lambda: 0)
    caplog.set_level("INFO")


def content(folder):
    """The files of a folder, without times of modification."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    for name in files:
        if name.endswith(".idx.json"):
            files[name] = {**json.loads(files[name]), "mtime_ns": 0}
    return files
