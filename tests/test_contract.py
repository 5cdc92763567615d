"""What callbacks and commands read of a method is declared, and nothing else has a meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.training.ema import EMA
from files.method import Method, method_of
from tests.callbacks.tiny import Tiny, loader, trainer
from tests.make import Model

# Names that mean nothing to callbacks: a method may give them to anything.
FREE = """steps accumulate counts tiles options network space encoder enlarged backbone clip sampled
    sampling weights optimizer lr_scheduler seed noise schedule state batches sampler timesteps"""


class Named(Model):
    """A method that gives an attribute of each free name a value of its own."""

    def __init__(self, scale: float, value: object) -> None:
        super().__init__(scale)
        for name in FREE.split():
            setattr(self, name, value)


def averages_of(method: Model, folder: Path) -> Any:
    torch.manual_seed(0)
    ema = EMA(0.5)
    trainer(folder, ema).fit(method, loader())
    return ema.state_dict()


@pytest.mark.parametrize("value", [20, "a", None])  # as settings have them
def test_attributes_of_free_names_do_not_change_training_with_ema(
    tmp_path: Path, value: object
) -> None:
    """A callback that read one of a user's method would take it for a setting of its own."""
    averages = averages_of(Named(scale=2.0, value=value), tmp_path)
    expected = averages_of(Model(scale=2.0), tmp_path)
    torch.testing.assert_close(averages, expected, rtol=0, atol=0)


def test_for_callbacks_a_plain_lightning_module_has_none_of_a_methods_features() -> None:
    """They may ask any module, such as a user's, for its noise or its tiles."""
    method = method_of(Tiny())
    assert type(method) is Method
    assert method.training_only == ()
    assert method.weights_source is None
    assert method.tile_count is None
    assert method.noise_seed == 0
    assert method.drew_noise is False
    assert method.output_settings == {}
    assert method.batches_per_step is None
