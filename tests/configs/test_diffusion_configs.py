"""The small base as a newcomer trains it, made smaller."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.pack import __main__ as pack
from tests.conftest import REPO

CONFIGS = REPO / "configs"
EXPERIMENT = CONFIGS / "experiment/mini/diffusion/automobiles.yaml"


@pytest.mark.runs("mini/diffusion/automobiles")
def test_the_experiment(enlarger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENLARGER_DATA", str(tmp_path))
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for number in range(4):
            seed = number + 10 * (part == "test")
            pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / f"{part}{number}.png")
        arguments = [str(tmp_path / part), str(tmp_path / "cifar10")]
        assert pack.main([*arguments, "--name", f"{part}-automobile"]) == 0
    enlarger(
        *("fit", "--config", EXPERIMENT),
        *("--trainer.max_steps", 2, "--trainer.val_check_interval", 2),
        *("--trainer.accelerator", "cpu", "--trainer.logger", "false"),
        *("--trainer.enable_progress_bar", "false", "--data.init_args.workers", 0),
        *("--data.init_args.batch_size", 4, "--model.init_args.sampler.steps", 2),
    )
    run = tmp_path / "runs/mini_diffusion_automobiles"
    ranking = json.loads((run / "checkpoints/best.json").read_text())
    assert ranking["monitor"] == "val/kid_thumb"
    stored = torch.load(run / "checkpoints/step-000000002.ckpt", weights_only=True)
    assert "denoiser.unet.conv_in.weight" in stored["state_dict"]
