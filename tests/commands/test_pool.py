"""Interrupted runs with a pair pool end as uninterrupted ones."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.commands.test_resume import CASES, Enlarger, Interruption, assert_same, newest

Fitted = Callable[..., Path]
POOL = (
    *("--degradation", "tests.datamodules.pooled.Pooled", "--degradation.init_args.pool", "8"),
    *("--trainer.callbacks+", "tests.commands.test_resume.Interruption"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        "in the middle of an epoch",
        "before a batch",
        "after the last batch of an epoch",
        "in a validation",
        "between the batches of an accumulation",
        "in a step, after the weights changed",
        "with workers",
    ],
)
def test_after_an_exception(tiny: Path, enlarger: Enlarger, fitted: Fitted, case: str) -> None:
    (hook, batch), extra = CASES[case]
    command = ["fit", "--config", "tiny.yaml", *POOL]
    fitted(*POOL, *extra, name="whole")
    Interruption.hook, Interruption.batch = hook, batch
    with pytest.raises(RuntimeError, match="interrupted"):
        enlarger(*command, "--run.name", "stopped", *extra)
    enlarger(*command, "--run.name", "stopped", *extra)
    assert_same("stopped", "whole")
    stopped, whole = (newest(run)["SRDataModule"]["pairs"][0] for run in ("stopped", "whole"))
    assert stopped.keys() == whole.keys()
    for name, value in whole.items():
        same = torch.equal if isinstance(value, torch.Tensor) else operator.eq
        assert same(stopped[name], value), name
