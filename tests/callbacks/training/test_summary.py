"""Summary: the parameters of each part, and FLOPs only where they were counted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from callbacks.training.summary import Summary
from tests.callbacks import tiny
from tests.callbacks.tiny import Tiny, loader


def logged(root: Path, model: Tiny, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.INFO, logger="callbacks.training.summary")
    tiny.trainer(root, Summary(), max_steps=1).fit(model, loader())
    (record,) = [r for r in caplog.records if r.name == "callbacks.training.summary"]
    return record.getMessage().splitlines()


def test_parts_and_parameters(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = logged(tmp_path, Tiny(), caplog)
    assert [line.split() for line in lines[:-1]] == [
        ["Name", "Type", "Params", "Mode"],
        ["0", "net", "Conv2d", "84", "train"],
        ["1", "frozen", "Conv2d", "12", "train"],
    ]
    assert lines[-1] == "96 parameters (0.0 MB), 84 of them trained"


def test_flops_that_were_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Tiny()
    model.example_input_array = (torch.zeros(1, 3, 8, 8), (16, 16))
    lines = logged(tmp_path, model, caplog)
    assert "FLOPs" in lines[0]
    # Two operations of each of 81 weights at each of 16 x 16 pixels.
    assert lines[-1].endswith(", 41.5 K FLOPs")
