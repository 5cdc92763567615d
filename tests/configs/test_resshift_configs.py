"""ResShift's experiments: its miniature, and that settings which belong together agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_modules.networks.autoencoders import taef2_decoder, taef2_encoder
from tests.configs.shipped import PATHS

Enlarger = Callable[..., None]
NAMES = ("pixel", "taef2")
RUN = (
    *("--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.max_steps", 2),
    *("--trainer.val_check_interval", 2, "--trainer.limit_val_batches", 1),
    *("--trainer.enable_progress_bar", "false", "--data.init_args.workers", 0),
    *("--data.init_args.batch_size", 2, "--data.init_args.crop_size", 32),
    *("--data.init_args.eval_batch_size", 1, "--data.init_args.val.photos.init_args.size", 32),
)
WINDOW = ("--model.init_args.network.init_args.window", 2)


def mini(name: str) -> str:
    return f"experiment/mini/resshift/{name}.yaml"


@pytest.mark.slow
@pytest.mark.runs("mini/resshift/{name}")
@pytest.mark.parametrize("name", NAMES)
def test_a_miniature_runs(
    name: str, enlarger: Enlarger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(tmp_path))
    with torch.random.fork_rng(devices=[]):
        torch.save(taef2_encoder().state_dict(), tmp_path / "taef2_encoder.pth")
        torch.save(taef2_decoder().state_dict(), tmp_path / "taef2_decoder.pth")
    window = WINDOW if "taef2" in name else ()
    enlarger("fit", "--config", PATHS[mini(name)], *RUN, *window)
    assert Path(f"runs/mini_resshift_{name}/checkpoints/step-000000002.ckpt").is_file()
