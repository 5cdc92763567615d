"""From a tokenizer to NSARM, one command each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands.encode import _caption

Enlarger = Callable[..., None]
Refusal = Callable[..., str]

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
STAGE_ONE = f"class_path: lightning_modules.NSARMStageOne\ninit_args:{SPACE}{MAPPER}"


def of(name: str, verb: str = "fit") -> tuple[object, ...]:
    often = ("--trainer.max_steps", 2, "--trainer.val_check_interval", 2)
    steps = (*often, "--data.init_args.crop_size", 32) if verb == "fit" else ()
    named = () if verb == "encode" else ("--run.name", name)
    return (verb, "--config", "tiny.yaml", "--model", f"{name}.yaml", *named, *steps)


def report(folder: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("runs", folder, "samples", name).read_text())
    return found


@pytest.mark.parametrize("sample", [{}, {"text": " \n"}])
def test_a_blank_caption_is_not_encoded(sample: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"a/1 has no caption, which --encode\.texts requires: "):
        _caption("a/1", sample)
