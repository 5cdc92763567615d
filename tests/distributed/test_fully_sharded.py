"""FSDP on two processes: a run goes on from its checkpoint, with FSDP and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.distributed.records import newest
from tests.distributed.test_two_processes import torchrun

pytestmark = pytest.mark.distributed

METRIC = "[callbacks.psnr.PSNR]"  # and no EMA, which needs whole parameters


@pytest.mark.slow
def test_goes_on_sharded_and_whole(tiny: Path, enlarger: Callable[..., None]) -> None:
    """One file for both: states of the optimiser in the order in memory that each of them needs."""
    command = ["fit", "--config", "tiny.yaml", "--trainer.callbacks", METRIC]
    enlarger(*command, "--run.name", "alone")
    torchrun(*command, "--run.name", "parts", "--trainer.max_steps", 5, strategy="fsdp")
    enlarger(*command, "--run.name", "parts", "--trainer.max_steps", 8)
    torchrun(*command, "--run.name", "parts", strategy="fsdp")
    parts, alone = newest(Path("runs/parts")), newest(Path("runs/alone"))
    assert parts["global_step"] == alone["global_step"] == 12
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(parts[part], alone[part], rtol=0, atol=1e-6)
