"""FSDP on two processes: a run resumes from its checkpoint, with and without FSDP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.commands.test_next_scale import STAGE_ONE, TOKENIZER, TRANSFORMER, of
from tests.distributed.records import newest
from tests.distributed.test_two_processes import torchrun

pytestmark = pytest.mark.distributed

BOTH = f"{STAGE_ONE}{TRANSFORMER}"
METRIC = "[callbacks.PSNR]"  # and no EMA, which needs whole parameters


@pytest.mark.slow
def test_goes_on_sharded_and_whole(tiny: Path, enlarger: Callable[..., None]) -> None:
    """One file for both: optimiser states in the memory layout that each needs."""
    command = ["fit", "--config", "tiny.yaml", "--trainer.callbacks", METRIC]
    enlarger(*command, "--run.name", "alone")
    torchrun(*command, "--run.name", "parts", "--trainer.max_steps", 5, strategy="fsdp")
    enlarger(*command, "--run.name", "parts", "--trainer.max_steps", 8)
    torchrun(*command, "--run.name", "parts", strategy="fsdp")
    parts, alone = newest(Path("runs/parts")), newest(Path("runs/alone"))
    assert parts["global_step"] == alone["global_step"] == 12
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(parts[part], alone[part], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_network_with_other_methods_beside_a_frozen_one(
    tiny: Path, enlarger: Callable[..., None]
) -> None:
    """NSARM asks its transformer twice, and a tokenizer that stays whole; blocks hold blocks.

    In parts each block is computed again in the backward pass, too.
    """
    for name, text in (("tokenizer", TOKENIZER), ("two", BOTH)):
        Path(f"{name}.yaml").write_text(text)
    enlarger(*of("tokenizer"), "--data.init_args.scale", 1)
    command = [*of("two"), "--trainer.callbacks", "[]", "--data.init_args.val", "null"]
    # Draws belong to a batch, of which each process has half.
    command += ["--model.init_args.stage_two.text_dropout", 0]
    command += ["--model.init_args.mapper.init_args.dropout", 0]
    more = ("--trainer.max_steps", 4, "--trainer.gradient_clip_val", 1)
    enlarger(*command, *more, "--run.name", "alone")
    again = ("--model.init_args.transformer.init_args.checkpointing", "true")
    torchrun(*command, *more, *again, "--run.name", "parts", strategy="fsdp")
    parts, alone = newest(Path("runs/parts")), newest(Path("runs/alone"))
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(parts[part], alone[part], rtol=0, atol=1e-5)
