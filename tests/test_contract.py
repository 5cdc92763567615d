"""What callbacks and commands read of a method is declared, and nothing else has a meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from callbacks.training.ema import EMA
from degradations.bicubic import resize
from files.method import Method, method_of
from lightning_modules.base import SuperResolver
from tests.callbacks.tiny import Tiny, loader, trainer

FREE = (  # names that a method may give to anything
    *("steps", "accumulate", "counts", "tiles", "options", "network", "space", "encoder"),
    *("enlarged", "backbone", "clip", "sampled", "sampling", "weights", "optimizer"),
    *("lr_scheduler", "seed", "noise", "schedule", "state", "batches", "sampler", "timesteps"),
)


class Plain(SuperResolver):
    """One convolution after bicubic."""

    def __init__(self, scale: float, **kwargs: Any) -> None:
        super().__init__(scale, **kwargs)
        self.filter = nn.Conv2d(3, 3, 3, padding=1)

    def restore(self, batch: Any, noise: Any) -> Tensor:
        return self.filter(resize(batch["lr"], batch["size"]))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return functional.l1_loss(self.restore(batch, None), batch["hr"])


def trained(tmp_path: Path, method: SuperResolver) -> EMA:
    torch.manual_seed(0)
    for parameter in method.parameters():
        nn.init.normal_(parameter)
    ema = EMA(0.5)
    trainer(tmp_path, ema).fit(method, loader())
    return ema


@pytest.mark.parametrize("value", [20, "a", None])
def test_a_method_may_name_its_attributes_freely(tmp_path: Path, value: object) -> None:
    class Named(Plain):
        def __init__(self, scale: float) -> None:
            super().__init__(scale)
            for name in FREE:
                setattr(self, name, value)

    ours, expected = trained(tmp_path, Named(2.0)), trained(tmp_path, Plain(2.0))
    assert ours.updates == expected.updates == 4  # 7 images in batches of 2
    for mine, other in zip(ours._averages, expected._averages, strict=True):
        assert torch.equal(mine, other)


def test_another_lightning_module_has_the_defaults() -> None:
    found = method_of(Tiny())
    assert type(found) is Method
    assert (found.training_only, found.weights_source, found.tile_count) == ((), None, None)
    assert (found.noise_seed, found.drew_noise, found.output_settings) == (0, False, {})
    assert found.batches_per_step is None
    assert isinstance(Plain(2.0), LightningModule)
