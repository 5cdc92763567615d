"""Validations and stops within an accumulation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from callbacks import PSNR

Enlarger = Callable[..., None]


def test_a_validation_within_an_accumulation_is_not_ranked(
    tiny: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    """The 5 batches of an epoch make 2 steps, of 3 and 2 batches."""
    keep = ("--checkpoint.keep_best", 20, "--checkpoint.every_n_steps", 0)
    more = ("--trainer.accumulate_grad_batches", 3, "--trainer.val_check_interval", 2)
    steps = ("--trainer.check_val_every_n_epoch", "null", "--trainer.max_steps", 6)
    enlarger("fit", "--config", "tiny.yaml", *keep, *more, *steps)
    scores = json.loads(Path("runs/tiny/checkpoints/best.json").read_text())["scores"]
    # After batches 2, 4, ... 14 of the run; a step ends with batches 3, 5, 8, 10, 13 and 15.
    assert sorted(scores) == ["step-000000004.ckpt", "step-000000003.ckpt"][::-1]
    said = [r.getMessage() for r in caplog.records if "accumulation" in r.getMessage()]
    assert len(said) == 5
    assert "set trainer.val_check_interval to a multiple" in said[0]


@pytest.mark.parametrize("validation", [0, 1])
def test_a_time_limit_waits_for_the_end_of_the_accumulation(
    tiny: Path, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch, validation: int
) -> None:
    validated = Mock()
    monkeypatch.setattr(PSNR, "on_validation_epoch_end", validated)
    more = ("--trainer.accumulate_grad_batches", 3, "--trainer.max_time", '{"microseconds": 1}')
    sizes = ("--trainer.limit_val_batches", validation, "--trainer.num_sanity_val_steps", 0)

    enlarger("fit", "--config", "tiny.yaml", *more, *sizes)

    assert Path("runs/tiny/checkpoints/step-000000001.ckpt").is_file()
    assert validated.call_count == validation
