"""FSDP on two processes: a run resumes from its checkpoint, with and without FSDP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.distributed.records import newest
from tests.distributed.test_two_processes import torchrun

pytestmark = pytest.mark.distributed

VAE = "{bits: 4, widths: [32, 32, 32, 32], layers: 1, groups: 8}"
GRIDS = "[[1, 1], [2, 2], [3, 3], [4, 4]]"
TOKENIZER = f"""
class_path: lightning_modules.Tokenizer
init_args:
  vae: {{class_path: lightning_modules.BitwiseVAE, init_args: {VAE}}}
  grids: {GRIDS}
  discriminator:
    class_path: lightning_modules.PatchGAN
    init_args: {{width: 8, layers: 2}}
"""
SPACE = f"""
  space:
    class_path: lightning_modules.BitwiseSpace
    init_args:
      vae: {{class_path: lightning_modules.BitwiseVAE, init_args: {VAE}}}
      grids: {GRIDS}
      patch: 1
  space_weights: runs/tokenizer
"""
TRANSFORMER = """
  transformer:
    class_path: lightning_modules.InfinityTransformer
    init_args: {bits: 4, depth: 1, width: 64, heads: 2, text_width: 128, text_length: 8}
"""
MAPPER = """
  mapper:
    class_path: lightning_modules.Transformation
    init_args: {bits: 4, size: [2, 2], grids: [[1, 1], [2, 2]], branches: [[16, 1, 2], [16, 1, 2]]}
"""
BOTH = f"class_path: lightning_modules.NSARM\ninit_args:{SPACE}{MAPPER}{TRANSFORMER}"
METRIC = "[callbacks.PSNR]"  # and no EMA, which needs whole parameters


def of(name: str, verb: str = "fit") -> tuple[object, ...]:
    often = ("--trainer.max_steps", 2, "--trainer.val_check_interval", 2)
    steps = (*often, "--data.init_args.crop_size", 32) if verb == "fit" else ()
    named = () if verb == "encode" else ("--run.name", name)
    return (verb, "--config", "tiny.yaml", "--model", f"{name}.yaml", *named, *steps)


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
