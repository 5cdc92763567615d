"""Workers end with their owner."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPO

PROGRAM = """
from datamodules.base import SRDataModule
from datamodules.photos import Photos
data = SRDataModule(2, val={"a": Photos(["camera", "moon", "coins"])}, workers=1)
data.setup("validate")
held = iter(data.val_dataloader()[0])
next(held)
raise ValueError("an error")
"""


@pytest.mark.slow
def test_a_command_ends_although_a_worker_lives() -> None:
    """Its iterator is still held, as by the traceback of an error in the midst of an evaluation."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPO, timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "ValueError: an error"
