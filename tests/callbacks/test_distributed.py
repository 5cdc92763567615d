"""Two processes: one fit with metrics, images and EMA, against one process with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from callbacks.metrics.base import ImageMetric
from callbacks.metrics.pixels import PSNR, SSIM
from callbacks.results.files import read_file
from callbacks.results.results import Results
from callbacks.training.ema import EMA
from tests.callbacks.tiny import Images, OneThread, Tiny, collate, loader, trainer


class Sharded(Tiny):
    """Validates on every world-th of 7 images: 4 and 3, so 4 and 3 batches of one."""

    def train_dataloader(self) -> DataLoader[Any]:
        own = range(self.trainer.global_rank, 8, self.trainer.world_size)
        return DataLoader(Images(8), 2, sampler=list(own), collate_fn=collate)

    def val_dataloader(self) -> DataLoader[Any]:
        own = range(self.trainer.global_rank, 7, self.trainer.world_size)
        return DataLoader(Images(), 1, sampler=list(own), collate_fn=collate)


class Save(Callback):
    """Write what each process holds at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = [c for c in trainer.callbacks if isinstance(c, ImageMetric)]
        found = {
            "records": [record for metric in metrics for record in metric.records],
            "logged": {k: v.item() for k, v in trainer.callback_metrics.items()},
            "ema": next(c for c in trainer.callbacks if isinstance(c, EMA)).state_dict(),
            "raw": pl_module.state_dict(),
        }
        torch.save(found, self.folder / f"{trainer.global_rank}.pt")


def metrics() -> list[ImageMetric]:
    return [PSNR(), SSIM(), PSNR("rgb", label="psnr_rgb")]


@pytest.mark.distributed
def test_digests_of_two_processes(tmp_path: Path) -> None:
    run = trainer(tmp_path / "two", OneThread(), PSNR(), Results(), devices=2, strategy="ddp_fork")
    run.validate(Sharded(), verbose=False)
    trainer(tmp_path / "one", PSNR(), Results()).validate(Tiny(), loader(), verbose=False)
    two = {row.image: row.digest for row in read_file(tmp_path / "two/images.json")}
    one = {row.image: row.digest for row in read_file(tmp_path / "one/images.json")}
    assert two == one
    assert len(set(two.values())) == 7


@pytest.mark.distributed
def test_two_processes_are_as_one(tmp_path: Path) -> None:
    callbacks = [OneThread(), *metrics(), EMA(), Save(tmp_path)]
    run = trainer(tmp_path, *callbacks, devices=2, strategy="ddp_fork", max_epochs=2)
    run.fit(Sharded())
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))

    # EMA needs no communication: equal weights have equal averages.
    assert first["ema"]["updates"] == 4
    for name, average in first["ema"]["weights"].items():
        assert torch.equal(average, second["ema"]["weights"][name])
        assert not torch.equal(average, first["raw"][name])

    # Both processes hold the same numbers, bit-equal to those of one process on the averages.
    assert first["records"] == second["records"]
    assert first["logged"] == second["logged"]
    model, alone = Tiny(), metrics()
    model.load_state_dict(first["raw"] | first["ema"]["weights"])
    run = trainer(tmp_path / "alone", *alone)
    run.validate(model, loader(batch_size=1), verbose=False)
    assert first["records"] == [record for metric in alone for record in metric.records]
    assert [record["n"] for record in first["records"]] == [7, 7, 7]
    logged = {k: v for k, v in first["logged"].items() if k.startswith("val/")}
    assert logged == {k: v.item() for k, v in run.callback_metrics.items()}
