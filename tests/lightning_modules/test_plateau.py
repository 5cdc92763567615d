"""Schedules that watch what validation measures: looked at once a validation, not once an epoch."""

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
    """Logs the same value at each, or each second, validation; notes the rate at each batch."""

    def __init__(self, name: str = "val/psnr", every: int = 1) -> None:
        self.name, self.every, self.validations = name, every, 0
        self.rates: list[float] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validations += 1
        if self.validations % self.every == self.every - 1:
            pl_module.log(self.name, 1.0)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"] / 2e-4)


def fitted(root: Path, measure: Measure, monitor: str = "val/psnr", **settings: Any) -> list[float]:
    """The rates, relative to the first one, of ten batches; by default two epochs of five."""

    def schedule(optimizer: Any) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(optimizer, monitor=monitor, factor=0.5, patience=0)

    batches = DataLoader([batch_of(2, side=4, name=f"b{i}") for i in range(5)], batch_size=None)
    options = {"max_epochs": 2, "limit_val_batches": 1} | settings
    run = trainer(root, callbacks=[measure], **options)
    run.fit(Model(lr_scheduler=schedule), batches, batches)
    return measure.rates


def test_patience_counts_validations(tmp_path: Path) -> None:
    rates = fitted(tmp_path, Measure(), val_check_interval=2)
    assert rates == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_not_every_epoch_has_a_validation(tmp_path: Path) -> None:
    """Also without a sanity check, which a resumed run never has."""
    settings: dict[str, Any] = {"max_epochs": 5, "limit_train_batches": 2}
    rates = fitted(
        tmp_path, Measure(), check_val_every_n_epoch=2, num_sanity_val_steps=0, **settings
    )
    assert rates == [1, 1, 1, 1, 1, 1, 1, 1, 0.5, 0.5]


def test_what_a_validation_did_not_measure_is_not_looked_at(tmp_path: Path) -> None:
    rates = fitted(tmp_path, Measure(every=2), val_check_interval=1)
    assert rates == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625]


def test_the_first_epochs_may_end_before_a_validation(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"check_val_every_n_epoch": None, "val_check_interval": 4}
    rates = fitted(tmp_path, Measure(), max_epochs=5, limit_train_batches=2, **settings)
    assert rates == [1, 1, 1, 1, 1, 1, 1, 1, 0.5, 0.5]


def test_the_sanity_check_does_not_count(tmp_path: Path) -> None:
    assert fitted(tmp_path, Measure(), num_sanity_val_steps=1) == [1] * 10


def test_values_of_training_are_looked_at_once_an_epoch(tmp_path: Path) -> None:
    class Loss(Measure):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            pl_module.log("train/loss", 1.0)

    rates = fitted(tmp_path, Loss(), "train/loss", max_epochs=3)
    assert rates == [1] * 10 + [0.5] * 5


def test_a_name_that_is_not_logged(tmp_path: Path) -> None:
    message = r"lr_scheduler monitors 'val/psnrr', which this .* monitor to one of val/psnr$"
    with pytest.raises(ValueError, match=message):
        fitted(tmp_path, Measure(), "val/psnrr")


def test_there_must_be_a_validation(tmp_path: Path) -> None:
    message = r"lr_scheduler monitors val/psnr, but there is no validation: set data\.init_args"
    with pytest.raises(ValueError, match=message):
        fitted(tmp_path, Measure(), limit_val_batches=0)
