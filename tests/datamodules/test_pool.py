"""The pair pool in SRDataModule: in training only, with intact pairs, stored in checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from datamodules.base import SRDataModule
from lightning_modules.base import first_batches
from lightning_modules.methods.regression import Regression
from tests.datamodules.memory import (
    Memory,
    random_image,
    random_images,
    trainer,
    training,
)
from tests.datamodules.pooled import Pooled
from tests.lightning_modules.tiny import Convolution


def module(pool: int = 8, **settings: Any) -> SRDataModule:
    defaults = {"batch_size": 4, "crop_size": 16, "workers": 0, "degradation": Pooled(2, pool)}
    return SRDataModule(2, **{"train": random_images(24)} | defaults | settings)


def test_pairs_of_earlier_batches_come_out_whole():
    plain, pooled = list(training(module(0))), list(training(module(8)))
    assert [b["seed"].tolist() for b in pooled] == [b["seed"].tolist() for b in plain]
    made = {
        key: (hr, lr) for b in plain for key, hr, lr in zip(b["key"], b["hr"], b["lr"], strict=True)
    }
    earlier: list[str] = []
    for number, batch in enumerate(pooled):
        assert batch["size"] == (16, 16)
        for key, hr, lr in zip(batch["key"], batch["hr"], batch["lr"], strict=True):
            assert torch.equal(hr, made[key][0])
            assert torch.equal(lr, made[key][1])
        expected = plain[number]["key"] if number < 2 else earlier
        assert set(batch["key"]) <= set(expected)
        earlier += plain[number]["key"]
    assert {k for b in pooled[2:] for k in b["key"]} & {k for b in plain[2:] for k in b["key"]}


def test_captions_go_with_their_pairs():
    samples = {
        f"p{i}": {"hr": random_image(32, 40, i), "text": f"caption of p{i}"} for i in range(24)
    }
    for batch in training(module(train=Memory(samples))):
        assert batch["text"] == [f"caption of {k.removeprefix('train/')}" for k in batch["key"]]


def test_images_with_an_lr_of_their_own_go_by(caplog):
    samples = {
        f"p{i}": {"hr": random_image(32, 40, i), "lr": random_image(16, 20, i)} for i in range(12)
    }
    plain, pooled = (
        [b["key"] for b in training(module(pool, train=Memory(samples)))] for pool in (0, 8)
    )
    assert pooled == plain


def test_16_bits_are_refused():
    samples = {f"p{i}": {"hr": random_image(32, 40, i, np.uint16)} for i in range(12)}
    with pytest.raises(ValueError, match=r"gives 16-bit images .* set pool to 0"):
        list(training(module(train=Memory(samples))))


class Keys(Callback):
    def __init__(self) -> None:
        self.keys: list[list[str]] = []

    def on_train_batch_start(self, trainer: Any, model: Any, batch: Any, *_: Any) -> None:
        self.keys.append(batch["key"])


class Measuring(Regression):
    """Reads the first batches before training, as InvSR and CasArbi do."""

    def on_fit_start(self) -> None:
        self.measured = [batch["key"] for batch in first_batches(self, 5)]


def fit(
    root: Any, data: SRDataModule, ckpt_path: Any = None, method: Any = Regression, **settings: Any
) -> Any:
    seen, model = Keys(), method(2, Convolution)
    run = trainer(root, callbacks=[seen], num_sanity_val_steps=0, **settings)
    run.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return run, seen.keys, model


@pytest.mark.parametrize("epochs", [1, 2])
def test_resuming(tmp_path, epochs):
    settings = {"val": {"a": random_images(1)}}
    _, whole, final = fit(tmp_path, module(**settings), max_epochs=3)
    run, first, _ = fit(tmp_path, module(**settings), max_epochs=epochs)
    run.save_checkpoint(tmp_path / "one.ckpt")
    _, second, resumed = fit(tmp_path, module(**settings), tmp_path / "one.ckpt", max_epochs=3)
    assert first + second == whole
    assert all(map(torch.equal, final.parameters(), resumed.parameters()))


def test_batches_that_are_measured_before_training_do_not_enter_it(tmp_path):
    _, keys, model = fit(tmp_path, module(), method=Measuring, max_epochs=1)
    assert keys == fit(tmp_path, module(), max_epochs=1)[1]
    assert model.measured[:2] == keys[:2]  # while the pool is being filled


def test_resuming_with_another_pool_is_refused(tmp_path):
    run, _, _ = fit(tmp_path, module(), max_epochs=1)
    run.save_checkpoint(tmp_path / "one.ckpt")
    with pytest.raises(ValueError, match=r"degradation\.init_args\.pool was 8, now it is 12"):
        fit(tmp_path, module(12), tmp_path / "one.ckpt", max_epochs=2)
