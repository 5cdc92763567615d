"""SRDataModule under Lightning: empty sets, resuming, prediction, processes without an image."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.metrics.pixels import PSNR
from datamodules.base import SRDataModule
from datamodules.sources.mix import Mix
from degradations.bicubic import Bicubic as Degradation
from lightning_modules.controls.simple import Bicubic
from lightning_modules.methods.regression import Regression
from tests.datamodules.memory import noisy, random_images, trainer
from tests.make import Convolution
from tests.quick import quick


class Seen(Callback):
    """Records the samples of each training and validation batch, in order."""

    def __init__(self) -> None:
        self.train: list[tuple[int, list[int]]] = []
        self.val: list[list[str]] = []
        self.drawn: list[float] = []  # a model's draws in each training batch

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, *_: Any) -> None:
        self.train.append((trainer.current_epoch, batch["seed"].tolist()))

    def on_train_batch_end(self, *_: Any) -> None:
        self.drawn.append(float(torch.rand(())))

    def on_validation_start(self, *_: Any) -> None:
        self.val.append([])

    def on_validation_batch_start(self, trainer: Any, model: Any, batch: Any, *_: Any) -> None:
        self.val[-1] += batch["key"]


def module(**settings: Any) -> SRDataModule:
    defaults = {"batch_size": 4, "crop_size": 16, "workers": 0, "degradation": noisy()}
    return SRDataModule(2, **{"train": random_images(12)} | defaults | settings)


def fit(root: Path, data: SRDataModule, ckpt_path: Path | None = None, **settings: Any) -> Any:
    seen = Seen()
    callbacks = [seen, *settings.pop("callbacks", [])]
    settings = {"max_epochs": 2, "num_sanity_val_steps": 0} | settings
    run = trainer(root, callbacks=callbacks, **settings)
    model = Regression(2, Convolution)
    run.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return run, seen, model


class TestFit:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_epochs_follow_the_plan(self, tmp_path, workers):
        data = module(workers=workers)
        _, seen, _ = fit(tmp_path, data)
        expected = [
            (epoch, [item.seed for item in batch])
            for epoch in (0, 1)
            for batch in data.plan().batches(epoch, 0, 0, 1)
        ]
        assert seen.train == expected

    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_same_batches_again(self, tmp_path, workers):
        """`overfit_batches` repeats batches; the model's draws change in each epoch."""
        data = module(workers=workers)
        _, seen, _ = fit(tmp_path, data, overfit_batches=2, max_epochs=3)
        first = [[item.seed for item in batch] for batch in data.plan().batches(0, 0, 0, 1)][:2]
        assert seen.train == [(epoch, seeds) for epoch in range(3) for seeds in first]
        assert len(set(seen.drawn)) == len(seen.drawn) == 6

    @pytest.mark.parametrize("mixture", [False, True])
    @pytest.mark.parametrize("workers", quick([0, 2], 2))
    def test_resuming(self, tmp_path, mixture, workers):
        def data() -> SRDataModule:
            images = random_images(12)
            if mixture:
                parts = {"a": random_images(7), "b": random_images(3)}
                images = Mix(parts, {"a": 1, "b": 2.5}, samples=22)
            return module(train=images, workers=workers)

        _, whole, final = fit(tmp_path, data())
        run, first, _ = fit(tmp_path, data(), max_epochs=1)
        run.save_checkpoint(tmp_path / "one.ckpt")
        _, second, resumed = fit(tmp_path, data(), tmp_path / "one.ckpt")
        assert (len(first.train), len(whole.train)) == ((5, 10) if mixture else (3, 6))
        assert first.train + second.train == whole.train
        assert all(map(torch.equal, final.parameters(), resumed.parameters()))


def test_resuming_lightnings_own_checkpoint_within_an_epoch(tmp_path):
    data = {"train": random_images(12), "batch_size": 4}
    _, whole, _ = fit(tmp_path, module(**data))
    kept = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    fit(tmp_path, module(**data), max_steps=2, callbacks=[kept], enable_checkpointing=True)
    _, rest, _ = fit(tmp_path, module(**data), tmp_path / "step=2.ckpt")
    assert rest.train == whole.train[2:]


class Report(Callback):
    """Each process stores its result, and the images it saw."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.keys = folder, []

    def on_test_batch_end(self, trainer: Any, model: Any, out: Any, batch: Any, *_: Any) -> None:
        self.keys += batch["key"]

    def on_test_end(self, trainer: Any, model: Any) -> None:
        metric = next(c for c in trainer.callbacks if isinstance(c, PSNR))
        torch.save((self.keys, metric.records), self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.distributed
def test_a_process_without_an_image_does_not_keep_the_others_waiting(tmp_path):
    """Two processes, sets of one and of three images: each counts once, and the run ends."""

    def run(root: Path, **settings: Any) -> None:
        root.mkdir()
        sets = {"one": random_images(1), "three": random_images(3)}
        data = SRDataModule(2, test=sets, degradation=Degradation(2), workers=0)
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        test = trainer(root, callbacks=[PSNR(), Report(root)], **settings)
        test.test(Bicubic(2), datamodule=data, verbose=False)

    run(tmp_path / "two", devices=2, strategy="ddp_spawn")
    run(tmp_path / "alone")
    (keys_0, records_0), (keys_1, records_1) = (
        torch.load(tmp_path / "two" / f"{rank}.pt") for rank in (0, 1)
    )
    keys, records = torch.load(tmp_path / "alone" / "0.pt")
    assert keys_1 == ["three/p01"]
    assert sorted(keys_0 + keys_1) == sorted(keys)
    assert records_0 == records_1 == records
    assert [record["n"] for record in records] == [1, 3]
