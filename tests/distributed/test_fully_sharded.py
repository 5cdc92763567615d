"""FSDP on two processes: a run resumes from its checkpoint, with and without FSDP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.distributed.records import newest
from tests.distributed.test_two_processes import torchrun

pytestmark = pytest.mark.distributed

METRIC = "[callbacks.PSNR]"  # and no EMA, which needs whole parameters


@pytest.mark.slow
def test_goes_on_sharded_and_whole(tiny: Path, enlarger: Callable[..., None]) -> None:
    """One file for both: optimiser states in the memory layout that each needs.

    Of three images one process validates two, in tiles, while the other one has none left.
    """
    command: list[object] = ["fit", "--config", "tiny.yaml", "--trainer.callbacks", METRIC]
    command += ["--data.val.photos.files", "[1.png,2.png,3.png]"]
    command += ["--tiling.size", 16, "--tiling.overlap", 4]
    enlarger(*command, "--run.name", "alone")
    torchrun(*command, "--run.name", "parts", "--trainer.max_steps", 5, strategy="fsdp")
    enlarger(*command, "--run.name", "parts", "--trainer.max_steps", 8)
    torchrun(*command, "--run.name", "parts", strategy="fsdp")
    parts, alone = newest(Path("runs/parts")), newest(Path("runs/alone"))
    assert parts["global_step"] == alone["global_step"] == 12
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(parts[part], alone[part], rtol=0, atol=1e-6)
