"""ResShift's attention mask follows from the weights: in training, resuming, testing, exporting."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_modules.networks.swin_unet import SwinUNet, released_mask
from lightning_modules.weights import read_weights

Enlarger = Callable[..., None]
Refusal = Callable[..., str]
SMALL = {"width": 8, "multipliers": [1], "blocks": 1, "size": 32, "swin_width": 8, "heads": 2}
MARK = "network.released_mask"
MASK = "--model.init_args.network.init_args.mask"


@pytest.fixture
def resshift(tiny: Path) -> Path:
    """Return a configuration of a small ResShift, beside `official.pth` in its authors' format."""
    network = SwinUNet(**SMALL, condition_factor=0.5)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"module.{name}": 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in network.state_dict().items()
    }
    torch.save({"state_dict": tensors}, "unmarked.pth")
    tensors["module.input_blocks.1.1.blocks.1.attn_mask"] = released_mask(32, 32, 8, 4)
    torch.save({"state_dict": tensors}, "official.pth")
    config = yaml.safe_load(Path("tiny.yaml").read_text())
    config["model"] = {
        "class_path": "lightning_modules.ResShift",
        "init_args": {
            "network": {
                "class_path": "lightning_modules.SwinUNet",
                "init_args": {**SMALL, "condition_factor": 0.5},
            },
            "space": "lightning_modules.PixelSpace",
        },
    }
    config["trainer"] |= {"max_steps": 2, "limit_val_batches": 0}
    Path("resshift.yaml").write_text(yaml.safe_dump(config))
    return tiny


def in_checkpoint(run: str) -> Any:
    last = sorted(Path("runs", run, "checkpoints").glob("step-*.ckpt"))[-1]
    return torch.load(last, weights_only=True)["state_dict"]


@pytest.mark.slow
def test_the_mask_of_released_weights_is_kept(
    resshift: Path, enlarger: Enlarger, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    start = ("--config", "resshift.yaml", "--model.init_args.weights", "official.pth")
    sentence = refusal("fit", *start, MASK, "correct")
    assert "model.init_args.network.init_args.mask is correct" in sentence
    assert "official.pth was trained with the released attention mask" in sentence
    with caplog.at_level(logging.INFO):
        enlarger("fit", *start)
    assert "attention mask: released, with which official.pth was trained" in caplog.messages
    assert MARK in in_checkpoint("resshift")
    enlarger("fit", *start, "--trainer.max_steps", "3")  # resumes
    assert MARK in in_checkpoint("resshift")
    sentence = refusal("test", *start, MASK, "correct")
    assert "trained with the released attention mask" in sentence
    enlarger("test", *start)
    enlarger("export", "runs/resshift")
    exported = "runs/resshift/export/model.safetensors"
    assert MARK in read_weights(exported).tensors
    own = ("--config", "resshift.yaml", "--run.name", "other", "--model.init_args.weights")
    enlarger("fit", *own, exported)
    assert MARK in in_checkpoint("other")
    own = ("--config", "resshift.yaml", "--run.name", "third", "--model.init_args.weights")
    assert "released attention mask" in refusal("fit", *own, "runs/resshift", MASK, "correct")
