"""Work in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing

import pytest

from datamodules.workers import in_order, usable_cores
from tests.conftest import REPO


@pytest.mark.parametrize("workers", [1, 3])
def test_results_are_in_order(workers):
    assert list(in_order(str, range(100), workers)) == [str(n) for n in range(100)]


def test_few_items_start_no_process():
    assert set(in_order(_pid, range(16), 8)) == {os.getpid()}
    assert os.getpid() not in set(in_order(_pid, range(40), 8))


def _pid(_):
    return os.getpid()


def test_a_worker_that_dies():
    with pytest.raises(ValueError, match="fewer --workers"):
        list(in_order(os._exit, [1] * 40, 2))


def test_errors_arrive():
    with pytest.raises(ValueError, match="invalid literal"):
        list(in_order(int, ["1"] * 30 + ["x"] * 10, 2))


def test_it_can_be_left():
    with closing(in_order(str, range(10**6), 2)) as results:
        assert next(results) == "0"


def test_cores():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_workers_start_without_torch():
    """Its import takes seconds, and 200 MB in each of them."""
    code = "import sys, datamodules.pack.__main__; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)
