"""Settings of how a network runs, on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

NETWORK = """
model:
  class_path: lightning_modules.ResShift
  init_args:
    space: lightning_modules.PixelSpace
    network:
      class_path: lightning_modules.SwinUNet
      init_args: {{width: 32, multipliers: [1, 1], swin_width: 32, heads: 2, condition_factor: 0.5,
        {more}}}
"""


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("checkpoint: true", ["checkpoint", "checkpointing"]),
        ("channels_last: true", ["channels_last"]),
        ("compile: maybe", ["compile", "maybe"]),
    ],
)
def test_a_typo_gets_one_sentence(
    tiny: Path, refusal: Callable[..., str], more: str, words: list[str]
) -> None:
    Path("swin.yaml").write_text(NETWORK.format(more=more))
    sentence = refusal("check", "--config", "tiny.yaml", "--config", "swin.yaml")
    assert all(word in sentence for word in words)
    assert "\n" not in sentence


@pytest.mark.slow
def test_the_command_line_trains_with_them(tiny: Path, enlarger: Callable[..., None]) -> None:
    Path("swin.yaml").write_text(NETWORK.format(more="checkpointing: true"))
    enlarger("fit", "--config", "tiny.yaml", "--config", "swin.yaml", "--trainer.max_steps", 1)
