"""Work in several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from torch.utils.data import Dataset

from datamodules.pack.workers import read_in_order
from tests.conftest import REPO
from tests.datamodules.image_files import save


class Numbers(Dataset):
    """Numbers; the worker that reads one of them sends itself a signal."""

    def __init__(self, last, number=None):
        self.last, self.number = last, number

    def __getitem__(self, index):
        if index == self.last:
            os.kill(os.getpid(), self.number)
        return index


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_are_in_order(workers):
    items = read_in_order(Numbers(None), list(range(5, 100)), workers, 1, str, chunk=4)
    assert list(items) == list(range(5, 100))


@pytest.mark.parametrize(
    ("number", "cause"),
    [(signal.SIGKILL, "DataLoader worker"), (signal.SIGSTOP, "DataLoader timed out after 3")],
)
def test_a_worker_that_stops_is_named(number, cause):
    items = read_in_order(Numbers(2, number), list(range(40)), 2, 0.05, "image {}".format)
    with pytest.raises(ValueError, match=rf"{cause}.*, at about image [0-2]: .*fewer workers"):
        list(items)


class Large(Dataset):
    """Items that no pipe holds: a worker waits while it sends."""

    def __getitem__(self, index):
        return bytes(10_000_000)


def test_a_worker_that_stops_while_it_sends_is_named():
    items = read_in_order(Large(), list(range(40)), 1, 0.03, "image {}".format)
    next(items)
    time.sleep(0.5)  # until the next item is being sent
    (worker,) = psutil.Process().children()
    worker.suspend()
    with pytest.raises(ValueError, match=r"DataLoader worker.*, at about image 1: "):
        list(items)


@pytest.mark.slow
def test_ctrl_c_ends_workers_that_are_stopped(tmp_path):
    for number in range(60):
        save(tmp_path / "images" / f"{number:02d}.png", (400, 300), seed=number)
    words = [str(tmp_path / "images"), str(tmp_path / "out"), "--workers", "2"]
    command = [sys.executable, "main.py", "pack", *words, "--encode", "webp"]
    with subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True) as process:
        workers = []
        while len(workers) < 2:
            workers = psutil.Process(process.pid).children()
        for worker in workers:
            worker.suspend()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.endswith("stopped by SIGINT\n")
    assert not psutil.wait_procs(workers, timeout=60)[1]
