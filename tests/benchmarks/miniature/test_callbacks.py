"""Cost and outputs of an evaluation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.miniature.callbacks import Cost, KeepOutputs
from files.method import Method
from tests.callbacks.tiny import Images, Tiny, loader, trainer

PAUSE = 0.02


class Slow(Method, Tiny):
    """Calls its network thrice a batch, takes some time, and has a seed."""

    _noise_seed = 5

    def test_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        time.sleep(PAUSE)
        for _ in range(2):
            self.net(batch["lr"])
        return super().test_step(batch, batch_idx, dataloader_idx)


def test_calls_and_seconds(tmp_path: Path) -> None:
    cost, model = Cost(), Slow()
    run = trainer(tmp_path, cost)
    run.test(model, loader(Images(7, "tiny"), batch_size=1), verbose=False)
    numbers = {record["metric"]: record for record in cost.records}
    assert numbers.keys() == {"seconds", "calls"}
    assert numbers["calls"]["value"] == 3
    assert numbers["calls"]["n"] == 7
    assert numbers["seconds"]["value"] >= PAUSE
    assert not model.net._forward_pre_hooks  # listens no more


def test_seconds_of_an_image_are_a_share_of_the_batch(tmp_path: Path) -> None:
    cost = Cost()
    trainer(tmp_path, cost).test(Slow(), loader(Images(6), batch_size=6), verbose=False)
    numbers = {record["metric"]: record["value"] for record in cost.records}
    assert numbers["seconds"] >= PAUSE / 6
    assert numbers["calls"] == 3


def test_outputs_and_inputs_are_kept_by_seed_and_key(tmp_path: Path) -> None:
    images = Images(3, "tiny")
    trainer(tmp_path, KeepOutputs()).test(Slow(), loader(images, batch_size=2), verbose=False)
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    assert found == [f"outputs/{n}/tiny/{i:02d}.png" for n in ("5", "hr", "lr") for i in range(3)]
    hr = np.asarray(Image.open(tmp_path / "outputs/hr/tiny/01.png"))
    expected = (images[1]["hr"] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert hr == pytest.approx(expected)
