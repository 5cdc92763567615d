"""A schedule that watches what validation measures is stepped by Lightning, once an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.utils.data import DataLoader

from tests.datamodules.memory import trainer
from tests.lightning_modules.tiny import Model, batch_of


class Measure(Callback):
    """Logs the same value at each validation; notes the rate at each batch."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val/psnr", 1.0)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"] / 2e-4)


def plateau(optimizer: Any, monitor: str = "val/psnr") -> ReduceLROnPlateau:
    return ReduceLROnPlateau(optimizer, monitor=monitor, factor=0.5, patience=0)


def test_patience_counts_epochs(tmp_path: Path) -> None:
    measure = Measure()
    batches = DataLoader([batch_of(2, side=4, name=f"b{i}") for i in range(2)], batch_size=None)
    run = trainer(tmp_path, callbacks=[measure], max_epochs=3, limit_val_batches=1)
    run.fit(Model(lr_scheduler=plateau), batches, batches)
    assert measure.rates == [1, 1, 1, 1, 0.5, 0.5]


def test_a_value_of_training_which_each_rank_has_of_its_own() -> None:
    model = Model(lr_scheduler=lambda optimizer: plateau(optimizer, "train/loss"))
    with pytest.raises(ValueError, match=r"lr_scheduler monitors train/loss: .*val/psnr"):
        model.configure_optimizers()
