"""Workers end with their owner, and leave it what is its own."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from torch.utils.data import DataLoader
from torch.utils.data._utils import worker

from datamodules.loading import Loader, expect_workers, start_worker
from tests.conftest import REPO

FORK = multiprocessing.get_context("fork")


def large_item(index):
    """An array goes through the pipe, which it fills; a tensor would lie in shared memory."""
    return np.zeros(1 << 20)


def own_a_worker_and_be_killed(pid):
    loader = DataLoader(
        range(8),
        batch_size=None,
        num_workers=1,
        collate_fn=large_item,
        worker_init_fn=start_worker,
    )
    batches = iter(loader)
    (child,) = multiprocessing.active_children()
    pid.value = child.pid
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
    del batches


def test_a_worker_ends_although_its_owner_reads_no_more(monkeypatch):
    monkeypatch.setattr(worker, "MP_STATUS_CHECK_INTERVAL", 0.2)  # seconds; else 5
    pid = FORK.Value("i")
    owner = FORK.Process(target=own_a_worker_and_be_killed, args=(pid,))
    owner.start()
    owner.join()
    assert owner.exitcode == -signal.SIGKILL

    until = time.monotonic() + 30
    while psutil.pid_exists(pid.value) and time.monotonic() < until:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid.value)


PROGRAM = """
from datamodules.base import SRDataModule
from datamodules.sources.photos import Photos
data = SRDataModule(2, val={"a": Photos(["camera", "moon", "coins"])}, workers=1)
data.setup("validate")
held = iter(data.val_dataloader()[0])
next(held)
raise ValueError("an error")
"""


@pytest.mark.slow
def test_a_command_ends_although_a_worker_lives():
    """Its iterator is still referenced, as by the traceback of an error during evaluation."""
    command = [sys.executable, "-c", PROGRAM]
    ended = subprocess.run(command, cwd=REPO, timeout=120, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1] == "ValueError: an error"


class Decoder:
    """In a cycle, as a video's stream and container are: freed by the garbage collector alone."""

    def __init__(self, freed):
        self.freed = freed
        self.itself = self

    def __del__(self):
        self.freed.touch()


def test_a_worker_does_not_free_what_it_inherits(tmp_path):
    """FFmpeg would wait for threads of the decoder that do not exist in a fork."""
    expect_workers()  # from now on, a fork leaves alone what it inherits
    gc.disable()
    try:
        Decoder(tmp_path / "freed")
        process = FORK.Process(target=gc.collect)
        process.start()
        process.join()
        assert process.exitcode == 0
        assert not (tmp_path / "freed").exists()
    finally:
        gc.enable()
        gc.collect()
    assert (tmp_path / "freed").exists()


def unreadable(items):
    raise ValueError("unreadable")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_reading_outside_the_main_thread_ends_the_workers(workers):
    loader = Loader(range(8), num_workers=workers, collate_fn=unreadable)
    with ThreadPoolExecutor(1) as pool:
        batches = pool.submit(list, loader)
        with pytest.raises(ValueError, match="unreadable"):
            batches.result()
    assert not multiprocessing.active_children()
