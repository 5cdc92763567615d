"""Validations within an accumulation are ranked, or reported as lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.quick import quick

Enlarger = Callable[..., None]
FIT = ("fit", "--config", "tiny.yaml")


@pytest.mark.parametrize("each", quick(["epoch", "run"], "run"))
def test_a_validation_within_an_accumulation_ranks_the_step_before(
    tiny: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture, each: str
) -> None:
    """The 5 batches of an epoch make 2 steps, of 3 and 2 batches."""
    keep = ("--checkpoint.keep_best", 20, "--checkpoint.every_n_steps", 0)
    more = ("--trainer.accumulate_grad_batches", 3, "--trainer.val_check_interval", 2)
    count = ("--trainer.check_val_every_n_epoch", "null" if each == "run" else 1)
    enlarger(*FIT, *keep, *more, *count, "--trainer.max_steps", 6)
    scores = json.loads(Path("runs/tiny/checkpoints/best.json").read_text())["scores"]
    # After batches 2 and 4 of each epoch, or 2, 4, 6, ... 14 of the run.
    assert sorted(scores) == [f"step-{step:09d}.ckpt" for step in range(1, 6)]
    (got,) = [r.getMessage() for r in caplog.records if "accumulation" in r.getMessage()]
    assert "the validation after step 0 ran within an accumulation of 3 batches" in got
    for name in list(scores)[:1]:
        path = f"runs/tiny/checkpoints/{name}"
        enlarger("validate", "--config", "tiny.yaml", "--ckpt_path", path)
        results = json.loads(Path("runs/tiny/results.json").read_text())["results"]
        (value,) = (r["value"] for r in results if name in str(r["checkpoint"]))
        assert value == pytest.approx(scores[name], abs=1e-5)
