"""Cost and outputs of an evaluation."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.miniature.callbacks import Cost, KeepOutputs
from tests.callbacks.tiny import Pictures, Tiny, loader, trainer

PAUSE = 0.02


class Slow(Tiny):
    """Calls its network thrice a batch, takes some time, and has a seed."""

    noise_seed = 5

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
    run.test(model, loader(Pictures(7, "tiny"), batch_size=1), verbose=False)
    numbers = {record["metric"]: record for record in cost.records}
    assert numbers.keys() >= {"seconds", "calls", "parameters"}
    assert numbers["parameters"]["value"] == sum(p.numel() for p in model.parameters()) / 1e6
    assert numbers["calls"]["value"] == 3
    assert numbers["calls"]["n"] == 7
    assert numbers["seconds"]["value"] >= PAUSE
    assert not model.net._forward_pre_hooks  # listens no more


def test_seconds_of_an_image_are_a_share_of_the_batch(tmp_path: Path) -> None:
    cost = Cost()
    trainer(tmp_path, cost).test(Slow(), loader(Pictures(6), batch_size=6), verbose=False)
    numbers = {record["metric"]: record["value"] for record in cost.records}
    assert numbers["seconds"] >= PAUSE / 6
    assert numbers["calls"] == 3


class Hungry(Slow):
    """Takes 8 MiB in pieces that come from the heap, and each batch 1 MiB more."""

    def test_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        taken = [bytearray(2**16) for _ in range(128 + 16 * batch_idx)]
        out = super().test_step(batch, batch_idx, dataloader_idx)
        del taken
        return out


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux says it")
def test_memory_of_a_batch_is_seen_where_the_heap_has_free_room(tmp_path: Path) -> None:
    room = [bytearray(2**16) for _ in range(1024)]
    last = bytearray(2**16)  # above it, so that the heap keeps the room
    del room
    cost = Cost()
    trainer(tmp_path, cost).test(Hungry(), loader(Pictures(6), batch_size=1), verbose=False)
    (memory,) = [r["value"] for r in cost.records if r["metric"] == "memory"] or [math.nan]
    assert math.isnan(memory) or 8.9 < memory < 30  # the second batch's 9, and the network's
    assert len(last) == 2**16


def test_outputs_and_hr_are_kept_by_seed_and_key(tmp_path: Path) -> None:
    pictures = Pictures(3, "tiny")
    trainer(tmp_path, KeepOutputs()).test(Slow(), loader(pictures, batch_size=2), verbose=False)
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    assert found == [f"outputs/{n}/tiny/{i:02d}.png" for n in ("5", "hr") for i in range(3)]
    hr = np.asarray(Image.open(tmp_path / "outputs/hr/tiny/01.png"))
    expected = (pictures[1]["hr"] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert hr == pytest.approx(expected)


def test_clips_are_kept_frame_by_frame(tmp_path: Path) -> None:
    clips, made = torch.rand(2, 2, 3, 3, 4, 5)
    run: Any = SimpleNamespace(default_root_dir=tmp_path)
    model: Any = SimpleNamespace(noise_seed=5)
    batch = {"key": ["a/0", "b"], "clip": clips}
    KeepOutputs().on_test_batch_end(run, model, {"sr": made}, batch, 0)
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    names = [f"{key}/{n:03}.png" for key in ("a/0", "b") for n in range(3)]
    assert found == [f"outputs/{part}/{name}" for part in ("5", "hr") for name in names]
    frame = np.asarray(Image.open(tmp_path / "outputs/5/a/0/001.png"))
    assert frame == pytest.approx((made[0, 1] * 255).round().permute(1, 2, 0).numpy())
