"""A pair pool on two processes: a checkpoint holds both parts, and a run resumes from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.commands.test_resume import assert_same, newest
from tests.distributed.test_two_processes import torchrun


@pytest.mark.slow
@pytest.mark.distributed
def test_resume_on_two_processes(tiny: Path) -> None:
    command = [
        *("fit", "--config", "tiny.yaml", "--degradation", "tests.datamodules.pooled.Pooled"),
        *("--degradation.init_args.pool", "4", "--trainer.max_steps"),
    ]
    torchrun(*command, 9, "--run.name", "whole")
    torchrun(*command, 6, "--run.name", "stopped")
    torchrun(*command, 9, "--run.name", "stopped")
    assert_same("stopped", "whole")
    first, second = newest("whole")["SRDataModule"]["pairs"]
    assert first["hr"].shape == second["hr"].shape == torch.Size((4, 3, 16, 16))
    assert not torch.equal(first["hr"], second["hr"])
    assert first["notes"] != second["notes"]
