"""Crops without the whole image, images smaller than the crop, orientations, single draws."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.order.plan import Item, Plan
from datamodules.samples import SampleDraws, TrainingImages, apply_orientation
from degradations.draws import Draws
from tests.datamodules.memory import Memory, random_image
from tests.datamodules.test_base import located, repeated


class Sized(Memory):
    """Knows the sizes, and cuts by itself."""

    def __init__(self, samples):
        super().__init__(samples)
        self.reads = []

    def size(self, index):
        sample = self.samples[self.keys[index]]
        return None if isinstance(sample, str) else sample["hr"].shape[:2]

    def read(self, index):
        self.reads.append(index)
        return super().read(index)

    def read_crop(self, index, top, left, height, width):
        sample = Memory.read(self, index).copy()
        sample["hr"] = sample["hr"][top : top + height, left : left + width].copy()
        return sample


class Told(Memory):
    """Knows the sizes, and cuts as every Source does by default."""

    def size(self, index):
        return self.samples[self.keys[index]]["hr"].shape[:2]


SAMPLES = {
    f"p{i}": {
        "hr": random_image(20 + 3 * i, 40 - 2 * i, i),
        "text": f"{i}",
        "meta": {"path": str(i)},
    }
    for i in range(6)
}


def crops(source, count=40, **settings):
    settings = {"scale": 2.0, "crop_size": 12, "flips": True} | settings
    dataset = TrainingImages(source, "train", **settings)
    return [dataset[Item(i % len(source.samples), 7919 * i, 0, i)] for i in range(count)]


class TestCropsAlone:
    @pytest.mark.parametrize("source", [Sized, Told])
    @pytest.mark.parametrize("flips", [True, False])
    def test_pixels_are_those_of_the_whole_image(self, source, flips):
        whole, alone = crops(Memory(SAMPLES), flips=flips), crops(source(SAMPLES), flips=flips)
        for a, b in zip(whole, alone, strict=True):
            np.testing.assert_array_equal(a.pop("hr"), b.pop("hr"))
            assert a == b
            assert "meta" not in b


SMALL = {
    "wide": {"hr": located(4, 30)},
    "tall": {"hr": located(30, 4)},
    "dot": {"hr": located(1, 1)},
    "large": {"hr": located(30, 30)},
    "other": {"hr": located(12, 12)},
}
PLAN = Plan((5,), 0, 1, 1, repeats=8)


class TestSmallImages:
    @pytest.mark.parametrize("source", [Memory, Sized, Told])
    def test_pad(self, source):
        for sample in crops(source(SMALL), small="pad", flips=False):
            hr = sample["hr"].astype(int)
            assert hr.shape == (12, 12, 3)
            for axis, length in ((0, {"wide": 4, "dot": 1}), (1, {"tall": 4, "dot": 1})):
                place = hr[..., axis].max(axis=1 - axis)
                n = length.get(sample["key"].removeprefix("train/"))
                if n is None:
                    np.testing.assert_array_equal(np.diff(place), 1)
                else:  # mirrored, with the border pixel twice
                    there = np.arange(n)
                    expected = np.concatenate([there, there[::-1]] * 12)[:12]
                    np.testing.assert_array_equal(place, expected)

    @pytest.mark.parametrize("scale", [1, 2, 3])
    @pytest.mark.parametrize("size", [(3, 30), (30, 3), (1, 1), (9, 4)])
    def test_pairs_are_padded_alike(self, scale, size):
        lr = located(*size)
        hr = np.pad(repeated(lr, scale), ((0, scale - 1), (0, scale - 1), (0, 0)))  # cut off later
        source = Memory({"a": {"hr": hr, "lr": lr}})
        for sample in crops(source, small="pad", scale=float(scale), crop_size=10 * scale):
            assert sample["lr"].shape == (10, 10, 3)
            np.testing.assert_array_equal(sample["hr"], repeated(sample["lr"], scale))

    @pytest.mark.parametrize("source", [Memory, Sized])
    def test_skip(self, source):
        source = source(SMALL)
        for item, sample in zip(range(40), crops(source, small="skip", plan=PLAN), strict=True):
            small = list(SMALL)[item % 5] in ("wide", "tall", "dot")
            assert sample["key"] in ("train/large", "train/other")
            assert bool(sample["skipped"]) == small
            assert {skipped.reason for skipped in sample["skipped"]} <= {"small"}
            assert [skipped.planned for skipped in sample["skipped"]][:1] == [True] * small
        if isinstance(source, Sized):
            assert source.reads == []  # sizes are known, so skipped images are not read

    def test_a_replacement_keeps_the_seed_of_the_place(self):
        dataset = TrainingImages(Memory(SMALL), "train", 2.0, 12, True, small="skip", plan=PLAN)
        replaced = dataset[Item(0, 5, 0, 3)]
        index = list(SMALL).index(replaced["key"].removeprefix("train/"))
        alone = TrainingImages(Memory(SMALL), "train", 2.0, 12, True)[Item(index, 5)]
        np.testing.assert_array_equal(replaced["hr"], alone["hr"])
        assert replaced["seed"] == 5

    def test_an_image_is_tried_once_for_a_place(self):
        source = Sized({f"{i}": f"{i}.jpg: empty" for i in range(5)})
        message = r"5 images of .* in a row could not be used \(damaged 5\); the first: 0\.jpg"
        with pytest.raises(ValueError, match=message):
            crops(source, plan=PLAN)
        assert sorted(source.reads) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("turn", range(8))
def test_turns_as_by_numpy(turn, dtype):
    whole = random_image(20, 30, dtype=dtype)
    for cut in (whole, whole[3:8, 5:25], whole[::-1, ::2], whole[:1, :1]):
        before = cut.copy()
        expected = cut[:, ::-1] if turn & 1 else cut
        expected = expected[::-1] if turn & 2 else expected
        expected = expected.transpose(1, 0, 2) if turn & 4 else expected
        got = apply_orientation(cut, turn)
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == dtype
        got[...] = 0  # a copy
        np.testing.assert_array_equal(cut, before)


@given(st.integers(0, 2**63 - 1), st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 10**6))))
@settings(max_examples=40, deadline=None)
def test_draws_of_one_sample(seed, ranges):
    one, many = SampleDraws(seed, "crop"), Draws(np.array([seed])).fold("crop")
    for low, length in ranges:
        assert one.integer(low, low + length) == many.integers(low, low + length)[0]


class Rolled(Memory):
    """Draws by the global generators."""

    def read(self, index):
        drawn = [random.random(), np.random.random(), float(torch.rand(()))]
        return {"hr": np.tile((255 * np.array(drawn)).astype(np.uint8), (12, 12, 1))}


def test_what_a_source_draws_is_of_the_samples_seed():
    images = TrainingImages(Rolled(SAMPLES), "train", 2.0, 12, False)
    torch.manual_seed(1)
    expected = float(torch.rand(()))
    torch.manual_seed(1)
    first, other, again = (images[Item(0, seed, 0, 0)]["hr"] for seed in (5, 6, 5))
    assert float(torch.rand(())) == expected
    np.testing.assert_array_equal(first, again)
    assert (first[0, 0] != other[0, 0]).all()
