"""Work in several processes."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from datamodules.workers import in_order, time_limit


def lost(item, reason):
    return f"{reason}: {item}"


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_are_in_order(workers):
    assert list(in_order(str, range(100), workers, lost)) == [str(n) for n in range(100)]


def _pid(_):
    return os.getpid()


@pytest.mark.parametrize("how", [1, -signal.SIGKILL])
def test_a_worker_that_dies(how):
    with pytest.raises(ValueError, match=rf"\(status {how}\).* at {how}: .* fewer --workers"):
        list(in_order(_end, [0, 0, how] + [0] * 40, 2, lost))


def _end(how):
    if how > 0:
        os._exit(how)
    if how < 0:
        os.kill(os.getpid(), -how)
    return how


def test_a_worker_that_crashes_is_replaced():
    """Its item is lost, and all others are there, also those of the same message."""
    items = [0, -signal.SIGSEGV, 0, *[0] * 10]
    found = list(in_order(_end, items, 1, lost))
    assert found == [0, "crash: -11", *items[2:]]


@pytest.mark.timing
def test_an_item_that_takes_too_long(tmp_path):
    """Also one that holds the lock of Python's threads, but none that was stopped for once."""
    items = ["in C", str(tmp_path / "once"), *map(str, range(9)), "outside"]
    found = list(in_order(_work, items, 1, lost))
    assert found == ["too slow: in C", *items[1:]]
    assert list(in_order(_work, ["outside"], 0, lost)) == ["outside"]


def _work(item):
    with time_limit(0.3):
        if item == "in C":
            re.match("(a?){40}a{40}$", "a" * 39 + "b")
        if os.path.isabs(item) and not os.path.exists(item):
            Path(item).touch()
            time.sleep(60)
    if item == "outside":
        time.sleep(0.5)
    return item


def test_errors_arrive():
    with pytest.raises(ValueError, match="invalid literal") as error:
        list(in_order(int, ["1"] * 30 + ["x"] * 10, 2, lost))
    assert "_serve" in error.value.__notes__[0]
