"""Workers end with their owner, and leave it what is its own."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datamodules.loading import expect_workers
from tests.conftest import REPO

PROGRAM = """
from datamodules.base import SRDataModule
from datamodules.sources.photos import Photos
data = SRDataModule(2, val={"a": Photos(["camera", "moon", "coins"])}, workers=1)
data.setup("validate")
held = iter(data.val_dataloader()[0])
next(held)
raise ValueError("an error")
"""

ORPHANED = """
import multiprocessing, os, signal, time
import numpy as np
from torch.utils.data import DataLoader
import torch.utils.data._utils.worker as worker
from datamodules.loading import start_worker
worker.MP_STATUS_CHECK_INTERVAL = 0.2  # seconds after which a worker looks for its owner; else 5

class Large:
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return np.zeros(1 << 20)  # no tensor, so it goes through the pipe, which it fills

held = iter(DataLoader(Large(), None, num_workers=1, collate_fn=np.asarray,
                       worker_init_fn=start_worker))
(child,) = multiprocessing.active_children()
print(child.pid, flush=True)
time.sleep(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_ends_although_its_owner_reads_no_more() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHANED], cwd=REPO, timeout=60, stdout=subprocess.PIPE, text=True
    )
    worker, until = int(done.stdout), time.monotonic() + 30
    while alive(worker) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive(worker)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_command_ends_although_a_worker_lives() -> None:
    """Its iterator is still referenced, as by the traceback of an error during evaluation."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPO, timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "ValueError: an error"


class Decoder:
    """In a cycle, as a video's stream and container are: freed by the garbage collector alone."""

    def __init__(self, freed: Path) -> None:
        self.freed, self.itself = freed, self

    def __del__(self) -> None:
        self.freed.touch()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_a_worker_does_not_free_what_it_inherits(tmp_path: Path) -> None:
    expect_workers()
    gc.disable()
    try:
        Decoder(tmp_path / "freed")
        worker = multiprocessing.get_context("fork").Process(target=gc.collect)
        worker.start()
        worker.join()
        assert worker.exitcode == 0
        assert not (tmp_path / "freed").exists()
    finally:
        gc.enable()
        gc.collect()
    assert (tmp_path / "freed").exists()
