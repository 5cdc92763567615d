"""Work in several processes."""

from __future__ import annotations

import os
import signal

import pytest

from datamodules.workers import in_order


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_are_in_order(workers):
    assert list(in_order(str, range(100), workers, 100)) == [str(n) for n in range(100)]


def test_a_worker_that_dies():
    with pytest.raises(ValueError, match=r"a worker process died, .* fewer --workers"):
        list(in_order(_end, [0, 0, 1] + [0] * 40, 2, 43))


def _end(how):
    if how:
        os.kill(os.getpid(), signal.SIGKILL)
    return how


def test_errors_arrive():
    with pytest.raises(ValueError, match="invalid literal"):
        list(in_order(int, ["1"] * 30 + ["x"] * 10, 2, 40))
