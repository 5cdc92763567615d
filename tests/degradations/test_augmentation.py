"""Degradations as augmentations of kornia."""

from __future__ import annotations

import pickle

import pytest
import torch
from kornia.augmentation import (
    AugmentationSequential,
    RandomHorizontalFlip,
)

from degradations.bicubic import Bicubic
from degradations.containers import RandomDegradation
from degradations.recipes.second_order import RealESRGANLight
from degradations.stages.jpeg import JPEG
from degradations.stages.noise import GaussianNoise

SEEDS = torch.arange(4)


@pytest.fixture(autouse=True)
def _own_generator():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def hr():
    return torch.rand(4, 3, 32, 40, generator=torch.Generator().manual_seed(1))


def test_is_the_degradation_by_the_seeds_given(hr):
    recipe = RealESRGANLight(2.0)
    lr = RandomDegradation(recipe)(hr, params={"seeds": SEEDS})
    assert lr.shape == (4, 3, 16, 20)
    assert torch.equal(lr, recipe(hr, SEEDS))


def test_seeds_come_from_torchs_generator_and_are_kept(hr):
    augmentation = RandomDegradation([GaussianNoise(), JPEG()])
    first, params = augmentation(hr), augmentation._params
    assert params["seeds"].unique().numel() == 4
    second = augmentation(hr)
    assert not torch.equal(second, first)
    torch.manual_seed(0)
    assert torch.equal(augmentation(hr), first)
    assert torch.equal(pickle.loads(pickle.dumps(augmentation))(hr, params=params), first)


def test_pairs_of_lr_and_hr(hr):
    """The HR is a mask, so that both get the same flips."""
    pairs = AugmentationSequential(
        RandomHorizontalFlip(p=0.5), RandomDegradation(Bicubic(2.0)), data_keys=["input", "mask"]
    )
    lr, kept = pairs(hr, hr)
    assert torch.equal(lr, Bicubic(2.0)(kept, SEEDS))
    flipped = [torch.equal(a, b.flip(-1)) for a, b in zip(kept, hr, strict=True)]
    assert 0 < sum(flipped) < 4
    again, _ = pairs(hr, hr, params=pairs._params)
    assert torch.equal(again, lr)


def test_refuses_sizes_that_cannot_be_in_one_batch():
    with pytest.raises(ValueError, match=r"p is 0\.5, and .* 2 times smaller.*set p to 1"):
        RandomDegradation(Bicubic(2.0), p=0.5)
