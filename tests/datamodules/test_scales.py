"""Training at arbitrary scales: the sides of a batch, and its pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from datamodules.base import SRDataModule
from datamodules.scales import Scales
from degradations.base import quantize_8bit
from degradations.bicubic import Bicubic, resize
from tests.datamodules import memory
from tests.datamodules.memory import Memory, on_device, random_images, training


def drawn(scales: Scales, seed: int = 0) -> list[tuple[int, int]]:
    """Sides of LR and HR of 2,000 batches."""
    return [tuple(scales.sides(seed, n // 100, n % 100)) for n in range(2000)]


def test_factors_are_the_fixed_one_or_uniform_below_it():
    pairs = drawn(Scales(fixed=4, probability=0.8, lr_sides=[1000]))
    factors = np.array([hr / lr for lr, hr in pairs])
    fixed = factors == 4
    assert fixed.mean() == pytest.approx(0.8, abs=0.03)  # 3.4 standard deviations
    others = np.sort(factors[~fixed])
    # Uniform between 1 and 4: the largest distance of the distributions (Kolmogorov).
    expected = (np.arange(len(others)) + 0.5) / len(others)
    assert np.abs((others - 1) / 3 - expected).max() < 1.63 / len(others) ** 0.5
    assert others.min() >= 1.001  # an HR is at least one pixel larger


def test_the_side_of_hr_may_be_fixed():
    pairs = drawn(Scales(fixed=4, probability=0.5, hr_side=192))
    assert {hr for _, hr in pairs} == {192}
    sides = {lr for lr, _ in pairs}
    assert min(sides) == 48
    assert max(sides) == 191
    assert len(sides) > 100


def test_sides_follow_from_seed_epoch_and_batch():
    scales = Scales(probability=0.0)
    sides = np.array(drawn(scales))
    another_seed = np.array(drawn(scales, seed=1))
    a_tenth_fixed = np.array(drawn(Scales(probability=0.1)))
    assert np.array_equal(sides, drawn(Scales(probability=0.0)))
    assert (sides == another_seed).all(1).mean() < 0.1  # by chance
    # `probability` only changes which are fixed.
    assert (sides == a_tenth_fixed).all(1).mean() == pytest.approx(0.9, abs=0.03)
    assert scales.sides(0, 0, 1) != scales.sides(0, 1, 0)


def test_sides_never_change():
    """Else a run resumed with a later version would draw other sides."""
    scales = Scales(fixed=2, probability=0.8, lr_sides=[24])
    sides = [scales.sides(0, 0, n).hr for n in range(15, 24)]
    assert sides == [48, 48, 36, 42, 30, 48, 48, 46, 45]


SCALES = Scales(fixed=2, probability=0.5, lr_sides=[6, 8])


def data_of(train: Any = None, **settings: Any) -> SRDataModule:
    defaults = {"per_image": 3, "degradation": Bicubic(2), "scales": SCALES}
    return memory.data_of(train or random_images(12), **defaults | settings)


def sides_of(batches: Any) -> list[tuple[int, int]]:
    return [(batch["lr"].shape[-1], batch["hr"].shape[-1]) for batch in batches]


def test_each_batch_has_the_sides_of_its_number():
    """And a crop is cut at its upper left."""
    batches = list(training(data_of()))
    whole = list(training(data_of(scales=None)))
    assert sides_of(batches) == [SCALES.sides(0, 0, n) for n in range(9)]
    assert len(set(sides_of(batches))) > 4
    for batch, crops in zip(batches, whole, strict=True):
        height, width = batch["size"]
        assert torch.equal(batch["seed"], crops["seed"])
        assert torch.equal(batch["hr"], crops["hr"][..., :height, :width])


def test_a_whole_crop_is_shrunk_to_the_side():
    scales = Scales(fixed=2, probability=0.5, lr_sides=[4, 6, 8], whole=True)
    batches = list(training(data_of(scales=scales, crop_size=20)))
    crops = list(training(data_of(scales=None, crop_size=20)))
    assert len(set(sides_of(batches))) > 4
    for batch, whole in zip(batches, crops, strict=True):
        assert torch.equal(batch["hr"], quantize_8bit(resize(whole["hr"], batch["size"])))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_draws_the_same_sides(workers):
    def batches(start: int) -> list[Any]:
        data = data_of(workers=workers)
        data.setup("fit")
        data._position = lambda: (1, start)
        return [on_device(data, batch) for batch in data.train_dataloader()]

    whole = batches(0)
    rest = batches(5)

    assert sides_of(whole) == [SCALES.sides(0, 1, n) for n in range(9)]
    for batch, again in zip(whole[5:], rest, strict=True):
        for name in ("hr", "lr", "seed"):
            assert torch.equal(batch[name], again[name])


def test_replaced_images_keep_the_sides_of_the_place():
    broken = {f"bad{i}": f"bad{i}.jpg: truncated" for i in range(6)}
    data = data_of(Memory({**broken, **random_images(6).samples}), unreadable_limit=1)
    batches = list(training(data))
    assert data.tally.unreadable > 0
    assert sides_of(batches) == [SCALES.sides(0, 0, n) for n in range(9)]
