"""Training at arbitrary scales: the sides of a batch, and its pairs."""

import numpy as np
import pytest
import torch

from datamodules.scales import Scales
from degradations.base import quantize_8bit
from degradations.bicubic import Bicubic, resize
from tests.datamodules import memory
from tests.datamodules.memory import assert_same, on_device, random_images, training


def drawn(scales, seed=0):
    """Sides of LR and HR of 20 epochs of 100 batches: an array (2000, 2)."""
    return np.array([scales.sides(seed, n // 100, n % 100) for n in range(2000)])


def test_factors_are_the_fixed_one_or_uniform_below_it():
    lr, hr = drawn(Scales(fixed=4, probability=0.8, lr_sides=[1000])).T
    factors = hr / lr
    others = np.sort(factors[factors != 4])

    assert len(others) / 2000 == pytest.approx(0.2, abs=0.03)  # 3.4 standard deviations
    # Uniform between 1 and 4: Kolmogorov's distance of the distributions, below its 1 % level.
    expected = (np.arange(len(others)) + 0.5) / len(others)
    assert np.abs((others - 1) / 3 - expected).max() < 1.63 / len(others) ** 0.5
    assert others.min() >= 1.001  # an HR is at least one pixel larger than 1000


def test_with_a_fixed_side_of_hr_that_of_lr_is_drawn():
    lr, hr = drawn(Scales(fixed=4, probability=0.5, hr_side=192)).T
    assert set(hr) == {192}
    assert lr.min() == 48  # 192 / 4
    assert lr.max() == 191  # at least one pixel less
    assert len(set(lr)) > 100  # of 144


def test_sides_follow_from_seed_epoch_and_batch():
    """The array has 20 epochs of 100 batches, one after the other."""
    arbitrary = drawn(Scales(probability=0.0))
    another_seed = drawn(Scales(probability=0.0), seed=1)
    a_tenth_fixed = drawn(Scales(probability=0.1))
    assert (arbitrary == another_seed).all(1).mean() < 0.1  # by chance: HR has 49 to 96 pixels
    # `probability` only decides which are fixed: the others are as without it.
    assert (arbitrary == a_tenth_fixed).all(1).mean() == pytest.approx(0.9, abs=0.03)
    batch_1_of_epoch_0 = arbitrary[1]
    batch_0_of_epoch_1 = arbitrary[100]
    assert (batch_1_of_epoch_0 != batch_0_of_epoch_1).any()  # as if by 0 + 1 and 1 + 0


def test_sides_never_change():
    """Else a run resumed with a later version would draw others. Recorded from the program."""
    scales = Scales(fixed=2, probability=0.5, lr_sides=[24, 32])
    sides = [tuple(scales.sides(seed=3, epoch=1, batch=n)) for n in range(6)]
    assert sides == [(32, 64), (32, 33), (32, 40), (24, 33), (32, 64), (24, 48)]  # LR, HR


SCALES = Scales(fixed=2, probability=0.5, lr_sides=[6, 8])


def data_of(train, scales, **settings):
    settings = {"per_image": 3, "degradation": Bicubic(2)} | settings
    return memory.data_of(train, scales=scales, **settings)


def sides_of(batches):
    return [(batch["lr"].shape[-1], batch["hr"].shape[-1]) for batch in batches]


def test_scales_cut_hr_to_the_upper_left_of_its_crop():
    batches = list(training(data_of(random_images(12), scales=SCALES)))
    crops = list(training(data_of(random_images(12), scales=None)))
    assert len(set(sides_of(batches))) > 4  # they do change
    for batch, whole in zip(batches, crops, strict=True):
        height, width = batch["size"]
        assert torch.equal(batch["hr"], whole["hr"][..., :height, :width])


def test_scales_with_whole_shrink_hr_instead_of_cutting_it():
    """For images that must stay complete, such as faces. Rounded, as in files."""
    scales = Scales(fixed=2, probability=0.5, lr_sides=[4, 6, 8], whole=True)
    batches = list(training(data_of(random_images(12), scales)))
    crops = list(training(data_of(random_images(12), scales=None)))
    assert len({batch["size"] for batch in batches}) > 2
    for batch, whole in zip(batches, crops, strict=True):
        assert torch.equal(batch["hr"], quantize_8bit(resize(whole["hr"], batch["size"])))


def epoch_from(start):
    """The batches of the second epoch from one on."""
    data = data_of(random_images(12), SCALES)
    data.setup("fit")
    data._position = lambda: (1, start)
    return [on_device(data, batch) for batch in data.train_dataloader()]


def test_a_resumed_run_draws_the_sides_of_its_batches():
    whole = epoch_from(start=0)
    rest = epoch_from(start=5)
    # 12 images, 3 crops of each, in batches of 4: 9 batches.
    assert sides_of(whole) == [SCALES.sides(seed=0, epoch=1, batch=n) for n in range(9)]
    assert_same(rest, whole[5:])
