"""Training samples: crops without the whole image, small and unreadable ones, single draws."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal, assert_equal

from datamodules.order.plan import Item, Plan
from datamodules.samples import SampleDraws, Skipped, Tally, TrainingImages, apply_orientation
from degradations.draws import Draws
from tests.contracts.degradation_contract import global_generators_untouched
from tests.datamodules.memory import (
    Memory,
    data_of,
    located,
    random_image,
    random_images,
    repeated,
    training,
)


class Sized(Memory):
    """Knows the sizes, so that crops are read alone, and records what is read."""

    def __init__(self, samples):
        super().__init__(samples)
        self.reads = []

    def size(self, index):
        sample = self.samples[self.keys[index]]
        return None if isinstance(sample, str) else sample["hr"].shape[:2]

    def read(self, index):
        self.reads.append(self.keys[index])
        return super().read(index)


def crops(source, count=40, **settings):
    """Crops of 12 pixels of each image in turn, each by a seed of its own."""
    settings = {"scale": 2.0, "crop_size": 12, "flips": True} | settings
    dataset = TrainingImages(source, "train", **settings)
    images = len(source.samples)
    return [dataset[Item(image=n % images, seed=n, position=n)] for n in range(count)]


def test_a_crop_that_is_read_alone_has_the_pixels_of_the_whole_image():
    """Of `Sized` images only the crop is decoded, of `Memory` all. `meta` describes the file."""
    samples = {
        "a": {"hr": random_image(20, 40), "text": "a", "meta": {"path": "a"}},
        "b": {"hr": random_image(38, 23), "text": "b", "meta": {"path": "b"}},
    }
    for alone, expected in zip(crops(Sized(samples)), crops(Memory(samples)), strict=True):
        assert_equal(alone, expected)
        assert "meta" not in alone


@pytest.mark.parametrize("turn", range(8))
def test_each_orientation_is_that_of_numpy(turn):
    """The bits of its number: 1 flips left and right, 2 top and bottom, 4 then swaps the axes."""
    image = random_image(20, 30)[::-1, ::2]  # not contiguous, as a crop is not either
    expected = image[:, ::-1] if turn & 1 else image
    expected = expected[::-1] if turn & 2 else expected
    expected = expected.transpose(1, 0, 2) if turn & 4 else expected

    result = apply_orientation(image, turn)

    assert_array_equal(result, expected)
    assert not np.shares_memory(result, image)


# ----------------------------------------------------------------------------------- small images


SMALL = {
    "wide": {"hr": located(4, 30)},
    "tall": {"hr": located(30, 4)},
    "dot": {"hr": np.full((1, 1, 3), 9, np.uint8)},
    "large": {"hr": located(30, 30)},
    "enough": {"hr": located(12, 12)},
}
# Says which image replaces another: 5 images x 8 repeats are a place for each of 40 crops.
PLAN = Plan(groups=(len(SMALL),), seed=0, batch_size=1, streams=1, repeats=8)
MIRRORED = [0, 1, 2, 3, 3, 2, 1, 0, 0, 1, 2, 3]  # 4 pixels, made 12 by mirrors


@pytest.mark.parametrize("source", [Memory, Sized])
def test_small_images_are_mirrored_with_the_border_pixel_twice(source):
    wide, tall, dot, *_ = crops(source(SMALL), small="pad", flips=False)
    assert wide["hr"][:, 0, 0].tolist() == MIRRORED
    assert np.ptp(wide["hr"][0, :, 1]) == 11  # 12 columns of the image, side by side
    assert tall["hr"][0, :, 1].tolist() == MIRRORED
    assert (dot["hr"] == 9).all()


def test_hr_and_lr_of_small_pairs_are_mirrored_alike():
    lr = located(3, 4)
    hr = np.pad(repeated(lr, scale=3), ((0, 2), (0, 2), (0, 0)))  # fewer than 3 are cut off
    source = Memory({"a": {"hr": hr, "lr": lr}})
    for crop in crops(source, small="pad", scale=3.0, crop_size=30):  # 10 pixels of LR
        assert crop["lr"].shape == (10, 10, 3)
        assert_array_equal(crop["hr"], repeated(crop["lr"], scale=3))


@pytest.mark.parametrize("source", [Memory, Sized])
def test_small_images_are_replaced_by_others_of_full_size(source):
    images = source(SMALL)
    for number, crop in enumerate(crops(images, small="skip", plan=PLAN)):
        reasons = {skipped.reason for skipped in crop["skipped"]}
        assert crop["key"] in ("train/large", "train/enough")
        assert reasons == ({"small"} if number % 5 < 3 else set())  # three of five are small
    if source is Sized:  # the small ones are not even read
        assert set(images.reads) == {"large", "enough"}


def test_a_replacement_is_cropped_by_the_seed_of_the_place():
    settings = {"scale": 2.0, "crop_size": 12, "flips": True, "small": "skip", "plan": PLAN}
    dataset = TrainingImages(Memory(SMALL), "train", **settings)
    replacement = dataset[Item(image=0, seed=5, position=3)]
    index = dataset.keys.index(replacement["key"])
    assert_array_equal(replacement["hr"], dataset[Item(image=index, seed=5)]["hr"])
    assert replacement["seed"] == 5


# ------------------------------------------------------------------------------ unreadable images


def test_each_unreadable_image_is_tried_once_for_a_place():
    source = Sized({f"{i}": f"{i}.jpg: empty" for i in range(5)})
    with pytest.raises(ValueError, match=r"5 images .* \(damaged 5\); the first: 0\.jpg"):
        crops(source, plan=PLAN)
    assert sorted(source.reads) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("samples", "limit", "allowed"), [(1, 0.01, 10), (1, 0.0, 0), (1, 0.5, 500), (5000, 0.01, 50)]
)
def test_unreadable_images_may_be_a_share_of_the_samples_or_of_the_first_1000(
    samples, limit, allowed
):
    """So 1 % allows 10 at first, and 50 of 5,000. One more stops the run.

    Of fewer than 1,000 samples, a share would be mostly chance.
    """
    broken = Skipped("train/a", "truncated", "/photos/a.jpg: truncated", planned=True)
    tally = Tally(limit)
    tally.add(samples, skipped=[broken] * allowed)
    with pytest.raises(ValueError, match=rf"\(truncated {allowed + 1}\), more than the {allowed} "):
        tally.add(samples=1, skipped=[broken])


def test_a_run_stops_above_the_limit_with_the_list_of_images():
    nine = random_images(count=9, height=8, width=8).samples
    images = {"bad": "shard-7.tar: bad: cut off", **nine}
    data = data_of(Memory(images), batch_size=10, crop_size=8, per_image=50, workers=2)
    with pytest.raises(ValueError, match=r"unreadable_limit allows") as caught:
        list(training(data))
    assert str(caught.value).endswith("\n  shard-7.tar: bad: cut off")
    # One image of ten is broken, and 1 % of 1,000 are allowed: about 110 of the epoch's 500.
    assert data.tally.samples < 200


# ------------------------------------------------------------------------------------------ draws


@given(st.integers(0, 2**63 - 1), st.integers(-50, 50), st.integers(1, 10**6))
@settings(max_examples=40, deadline=None)
def test_draws_of_one_sample_are_those_of_a_batch(seed, low, length):
    """`SampleDraws` is `Draws` for one sample, without the time that arrays of one number take."""
    one = SampleDraws(seed, "crop")
    many = Draws(np.array([seed])).fold("crop")
    for _ in range(3):
        assert one.integer(low, low + length) == many.integers(low, low + length)[0]


class Drawn(Memory):
    """Pixels are draws of the global generators."""

    def read(self, index):
        drawn = [random.random(), np.random.random(), float(torch.rand(()))]
        return {"hr": np.tile((255 * np.array(drawn)).astype(np.uint8), (12, 12, 1))}


def test_what_a_source_draws_by_global_generators_depends_on_the_samples_seed_alone():
    images = TrainingImages(Drawn({"a": {}}), "train", scale=2.0, crop_size=12, flips=False)

    with global_generators_untouched():
        five = images[Item(image=0, seed=5)]["hr"]
        six = images[Item(image=0, seed=6)]["hr"]
        repeated_five = images[Item(image=0, seed=5)]["hr"]

    assert_array_equal(five, repeated_five)
    assert (five[0, 0] != six[0, 0]).all()  # of each of the three generators
