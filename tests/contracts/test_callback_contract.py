"""The contract can fail: callbacks that break it, each caught by the test that is meant to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from callbacks.metrics.base import ImageMetric
from tests.contracts.callback_contract import (
    CallbackContract,
    Convolution,
    MetricContract,
    Regression,
    data,
)
from tests.datamodules.memory import trainer

CHECK, METRIC = CallbackContract(), MetricContract()


class Nothing(Callback):
    """Keeps the contract."""


class Meddles(Callback):
    def on_train_batch_end(self, trainer, pl_module, *_):
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.mul_(0.99)


class Draws(Callback):
    def on_train_end(self, *_):
        np.random.rand()


@pytest.mark.parametrize("cls", [Meddles, Draws])
def test_a_broken_callback_is_caught(cls, tmp_path):
    check = CHECK.test_training_goes_on_as_without_it_and_resumes
    check(Nothing, tmp_path)
    with pytest.raises(AssertionError):
        check(cls, tmp_path)


class Difference(ImageMetric):
    """Keeps the contract; those below break it."""

    name = "mae"
    higher_is_better = False

    def protocol(self):
        return {"implementation": "mine 1"}

    def compute(self, sr, hr, batch):
        return (sr - hr).abs().mean((1, 2, 3))


class Pooled(Difference):
    def compute(self, sr, hr, batch):
        return super().compute(sr, hr, batch).mean().expand(len(sr))


class NoProtocol(Difference):
    def protocol(self):
        return {}


def measured(cls, folder):
    metric = cls()
    run = trainer(folder, callbacks=[metric])
    run.test(Regression(2, Convolution), datamodule=data(), verbose=False)
    return metric


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (Pooled, METRIC.test_an_image_does_not_depend_on_its_batch),
        (NoProtocol, METRIC.test_the_protocol_is_beside_each_number),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_metric_is_caught(cls, check, tmp_path):
    check(measured(Difference, tmp_path))
    with pytest.raises(AssertionError):
        check(measured(cls, tmp_path))
