"""The message of an exception that replaces its traceback."""

from __future__ import annotations

import errno
import os
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from commands.tracebacks import sentence_of, status_of
from datamodules.base import checked_scale
from datamodules.loading import loader_of
from files.waits import WAITS


class Items(Dataset):
    """Items that a worker is slow to read, or refuses."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __getitem__(self, index: int) -> float:
        time.sleep(self.seconds)
        return checked_scale(index)


def test_an_error_of_ours_is_its_text_from_a_worker_too() -> None:
    batches = iter(loader_of(Items(0), [[0]], 1, pin_memory=False))
    with pytest.raises(ValueError, match="Original Traceback") as raised:
        next(batches)
    expected = "data.init_args.scale is 0; it must be a number of at least 1"
    assert sentence_of(raised.value) == expected
    assert status_of(raised.value) == 2


def test_a_worker_that_hangs_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WAITS, "limit", 0.5)
    batches = iter(loader_of(Items(3), [[0]], 1, pin_memory=False))
    with pytest.raises(RuntimeError) as raised:
        next(batches)
    assert sentence_of(raised.value) == "DataLoader timed out after 0.5 seconds"


def test_a_file_that_the_system_refuses_is_named() -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a")
    assert sentence_of(error) == "[Errno 28] No space left on device: '/a'"
    assert status_of(error) == 2


def test_what_may_be_a_bug_is_none() -> None:
    with pytest.raises(MemoryError) as raised:
        np.empty(1 << 55)
    assert sentence_of(raised.value) is None
    assert status_of(raised.value) == 1


def test_a_batch_norm_of_one_crop_has_a_remedy() -> None:
    with pytest.raises(ValueError, match="1 value per channel") as raised:
        nn.BatchNorm2d(3)(torch.rand(1, 3, 1, 1))
    assert str(sentence_of(raised.value)).endswith("increase data.batch_size")
    assert status_of(raised.value) == 2
