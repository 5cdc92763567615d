"""The message of an exception that replaces its traceback, and its status."""

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
    """Items that a worker is slow to read, and then refuses as if 0 were given as the scale."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return checked_scale(0)


def error_of_worker(seconds):
    batches = iter(loader_of(Items(seconds), [[0]], workers=1, pin_memory=False))
    with pytest.raises((ValueError, RuntimeError)) as raised:
        next(batches)
    return raised.value


def test_a_refused_value_in_a_dataloader_worker_is_said_without_the_workers_traceback():
    """torch puts it into the message, where a user would look for the mistake in vain."""
    error = error_of_worker(seconds=0)
    assert "Original Traceback" in str(error)
    assert sentence_of(error) == "data.init_args.scale is 0; it must be a number of at least 1"
    assert status_of(error) == 2


def test_a_worker_that_hangs_longer_than_the_limit_is_an_error(monkeypatch):
    monkeypatch.setattr(WAITS, "limit", 0.5)
    error = error_of_worker(seconds=3)
    assert sentence_of(error) == "DataLoader timed out after 0.5 seconds"


def test_a_file_that_the_system_refuses_is_named():
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a")
    assert sentence_of(error) == "[Errno 28] No space left on device: '/a'"
    assert status_of(error) == 2


def test_an_error_that_may_be_a_bug_has_no_sentence():
    with pytest.raises(MemoryError) as raised:
        np.empty(1 << 55)  # 256 PiB: no machine has them
    assert sentence_of(raised.value) is None
    assert status_of(raised.value) == 1


def test_the_error_of_batch_norm_for_a_single_crop_names_the_batch_size():
    with pytest.raises(ValueError, match="1 value per channel") as raised:
        nn.BatchNorm2d(3)(torch.rand(1, 3, 1, 1))
    assert str(sentence_of(raised.value)).endswith("increase data.batch_size")
    assert status_of(raised.value) == 2
