"""Meter: what it says of time and memory is so."""

from __future__ import annotations

import mmap
import sys
import time
from pathlib import Path

import pytest
import torch

from callbacks.predict import writer as meter
from callbacks.predict.writer import Meter

CPU = torch.device("cpu")
LARGE = 64 << 20  # bytes


def peak_of(size: int) -> int | None:
    measured = Meter()
    measured.start(CPU)
    with mmap.mmap(-1, size) as kept:  # new pages, whatever memory earlier tests have left free
        kept.write(b"1" * size)
        return measured.stop().peak_memory


def test_seconds() -> None:
    measured = Meter()
    measured.start(CPU)
    time.sleep(0.05)
    assert measured.stop().seconds >= 0.05


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_peak_is_that_of_its_own_image() -> None:
    small, large, after = peak_of(1), peak_of(LARGE), peak_of(1)
    if small is None or large is None or after is None:
        pytest.skip("this kernel forgets no peak")
    assert large > small + LARGE // 2
    assert after < large - LARGE // 2


def test_where_nothing_tells_there_is_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "CLEAR", tmp_path / "none" / "clear_refs")
    assert peak_of(1) is None
