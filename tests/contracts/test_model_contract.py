"""The contract can fail: methods that break it, each caught by the test that is meant to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_modules.base import SuperResolver
from tests.contracts.model_contract import ModelContract

if TYPE_CHECKING:
    from collections.abc import Callable

CHECK = ModelContract()


class Plain(SuperResolver):
    """Keeps the contract; those below break it.

    Args:
        scale: Factor.
    """

    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self.net = nn.Conv2d(3, 3, 3, padding=1)

    def enlarged(self, batch):
        return functional.interpolate(self.net(batch["lr"]), batch["size"], mode="bilinear")

    def training_step(self, batch, batch_idx):
        return (self.enlarged(batch) + 0.1 * torch.rand(()) - batch["hr"]).square().mean()

    def restore(self, batch, noise):
        return self.enlarged(batch) + 0.01 * noise.normal((*batch["lr"].shape[:2], 1, 1))


class Global(Plain):
    def restore(self, batch, noise):
        return self.enlarged(batch) + 0.1 * torch.rand(())


class Statistics(Plain):
    def restore(self, batch, noise):
        sr = super().restore(batch, noise)
        return sr - sr.mean()


class Cheats(Plain):
    def restore(self, batch, noise):
        return batch.get(
            "hr", batch["lr"].mean() + torch.zeros(len(batch["lr"]), 3, *batch["size"])
        )


class HidesTypes(Plain):
    """Its second argument has a type that is not there at run time.

    Args:
        scale: Factor.
        network: A function.
    """

    def __init__(self, scale: float, network: Callable[[float], nn.Module] = nn.Conv2d) -> None:
        super().__init__(scale)


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (Global, CHECK.test_the_same_batch_gives_the_same_bits),
        (Global, CHECK.test_it_draws_from_the_noise_alone),
        (Statistics, CHECK.test_an_image_does_not_depend_on_its_batch),
        (Cheats, CHECK.test_without_hr),
        (HidesTypes, CHECK.test_arguments_are_typed_and_explained),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
@pytest.mark.filterwarnings("ignore:You are trying to `self.log:UserWarning")
def test_a_broken_model_is_caught(cls, check):
    with pytest.raises(
        (AssertionError, KeyError, ValueError, AttributeError, pytest.fail.Exception)
    ):
        check(cls(2.0))
