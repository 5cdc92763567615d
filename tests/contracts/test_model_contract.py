"""The contract can fail: methods that break it, each caught by the test that is meant to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_modules.base import SuperResolver
from tests.contracts.model_contract import ModelContract, batch_of, calls_of

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


class InSteps(Plain):
    """A stochastic sampler, whose rounding errors add up."""

    def restore(self, batch, noise):
        x = noise.normal((len(batch["lr"]), 3, *batch["size"]))
        for _ in range(20):
            x = 1.3 * (x - 0.2 * self.net(x)) + 0.1 * noise.normal(x.shape)
        return x


class StatisticsInSteps(InSteps):
    def restore(self, batch, noise):
        sr = super().restore(batch, noise)
        return sr / sr.std()


class Cheats(Plain):
    def restore(self, batch, noise):
        return batch.get(
            "hr", batch["lr"].mean() + torch.zeros(len(batch["lr"]), 3, *batch["size"])
        )


class Drifting(Plain):
    steps = 0

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return super().training_step(batch, batch_idx) * self.steps


class Forgets(Plain):
    def __init__(self, scale):
        super().__init__(scale)
        self.norm = nn.BatchNorm2d(3, affine=False)

    def enlarged(self, batch):
        return self.norm(super().enlarged(batch))

    def checkpoint_keys(self):
        return [name for name in super().checkpoint_keys() if "norm" not in name]


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
        (StatisticsInSteps, CHECK.test_an_image_does_not_depend_on_its_batch),
        (Cheats, CHECK.test_without_hr),
        (Drifting, CHECK.test_what_training_draws_belongs_to_the_batch),
        (Forgets, lambda m: CHECK.test_a_checkpoint_holds_all_that_was_trained(type(m), m)),
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


def test_a_sound_one_passes():
    CHECK.test_arguments_are_typed_and_explained(Plain(2.0))
    CHECK.test_refuses_a_scale_that_is_none(Plain)
    CHECK.test_steps_give_images(Plain(2.0), "test_step", (13, 21))
    CHECK.test_an_image_does_not_depend_on_its_batch(Plain(2.0))
    CHECK.test_without_hr(Plain(2.0))
    CHECK.test_an_image_that_could_not_be_read(Plain(2.0))
    CHECK.test_a_training_step(Plain(2.0))
    CHECK.test_what_training_draws_belongs_to_the_batch(Plain(2.0))
    CHECK.test_the_optimiser_has_what_is_trainable(Plain(2.0))
    CHECK.test_a_checkpoint_holds_all_that_was_trained(Plain, Plain(2.0))


def test_tolerances_grow_with_the_calls_of_the_network():
    for cls, expected in ((Plain, 1), (InSteps, 20)):
        torch.manual_seed(0)
        model = cls(2.0)
        assert calls_of(lambda model=model: CHECK.images(model, batch_of()))[1] == expected
        CHECK.test_an_image_does_not_depend_on_its_batch(model)
        CHECK.test_as_lightning_runs_it(model, discrete=False)
