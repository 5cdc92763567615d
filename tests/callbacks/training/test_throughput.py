"""Throughput: the shares of the time of a real run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize("workers", [0, 2])
def test_shares_of_a_run(
    tiny: Path, enlarger: Callable[..., None], caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    command = ("fit", "--config", "tiny.yaml", "--data.workers", workers)
    with caplog.at_level("INFO"):
        enlarger(*command, "--trainer.callbacks+", "callbacks.Throughput")
    (line,) = (text for text in caplog.messages if text.startswith("time of training: "))
    assert {"stepping", "validating"} <= {*re.findall(r"([a-z]+) [\d.]+%", line)}
    in_sequence = line.partition("; ")[0] if workers else line
    assert 0 < sum(map(float, re.findall(r"([\d.]+)%", in_sequence))) < 101
