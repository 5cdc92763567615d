"""Training samples: crops without the whole image, small and unreadable ones, single draws."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.order.plan import Item, Plan
from datamodules.samples import SampleDraws, Skipped, Tally, TrainingImages, apply_orientation
from degradations.draws import Draws
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
    """Knows the sizes, and cuts by itself."""

    def __init__(self, samples: dict[str, Any]) -> None:
        super().__init__(samples)
        self.reads: list[int] = []

    def size(self, index: int) -> tuple[int, int] | None:
        sample = self.samples[self.keys[index]]
        return None if isinstance(sample, str) else sample["hr"].shape[:2]

    def read(self, index: int) -> Any:
        self.reads.append(index)
        return super().read(index)

    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> Any:
        sample = Memory.read(self, index).copy()
        sample["hr"] = sample["hr"][top : top + height, left : left + width].copy()
        return sample


class Told(Memory):
    """Knows the sizes, and cuts as every Source does by default."""

    def size(self, index: int) -> tuple[int, int]:
        return self.samples[self.keys[index]]["hr"].shape[:2]


def crops(source: Memory, count: int = 40, **settings: Any) -> list[Any]:
    settings = {"scale": 2.0, "crop_size": 12, "flips": True} | settings
    dataset = TrainingImages(source, "train", **settings)
    items = [Item(i % len(source.samples), 7919 * i, 0, i) for i in range(count)]
    return [dataset[item] for item in items]


@pytest.mark.parametrize("source", [Sized, Told])
@pytest.mark.parametrize("flips", [True, False])
def test_a_crop_that_is_read_alone_has_the_pixels_of_the_whole_image(source, flips):
    samples = {}
    for i in range(6):
        hr = random_image(20 + 3 * i, 40 - 2 * i, i)
        samples[f"p{i}"] = {"hr": hr, "text": f"{i}", "meta": {"path": str(i)}}
    whole = crops(Memory(samples), flips=flips)
    alone = crops(source(samples), flips=flips)
    for expected, crop in zip(whole, alone, strict=True):
        np.testing.assert_array_equal(crop.pop("hr"), expected.pop("hr"))
        assert crop == expected
        assert "meta" not in crop


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("turn", range(8))
def test_turns_are_those_of_numpy(turn, dtype):
    whole = random_image(20, 30, dtype=dtype)
    for part in (whole, whole[3:8, 5:25], whole[::-1, ::2], whole[:1, :1]):
        before = part.copy()
        expected = part[:, ::-1] if turn & 1 else part
        expected = expected[::-1] if turn & 2 else expected
        expected = expected.transpose(1, 0, 2) if turn & 4 else expected

        result = apply_orientation(part, turn)

        np.testing.assert_array_equal(result, expected)
        assert result.dtype == dtype
        result[...] = 0  # a copy
        np.testing.assert_array_equal(part, before)


# ----------------------------------------------------------------------------------- small images


SMALL = {
    "wide": {"hr": located(4, 30)},
    "tall": {"hr": located(30, 4)},
    "dot": {"hr": located(1, 1)},
    "large": {"hr": located(30, 30)},
    "enough": {"hr": located(12, 12)},
}
PLAN = Plan((5,), 0, 1, 1, repeats=8)


@pytest.mark.parametrize("source", [Memory, Sized, Told])
def test_small_images_are_mirrored_with_the_border_pixel_twice(source):
    for sample in crops(source(SMALL), small="pad", flips=False):
        places = sample["hr"].astype(int)
        sides = SMALL[sample["key"].removeprefix("train/")]["hr"].shape
        assert places.shape == (12, 12, 3)
        for axis in (0, 1):
            found = places[..., axis].max(axis=1 - axis)
            if sides[axis] >= 12:
                np.testing.assert_array_equal(np.diff(found), 1)
            else:
                there = np.arange(sides[axis])
                mirrored = np.concatenate([there, there[::-1]] * 12)
                np.testing.assert_array_equal(found, mirrored[:12])


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("size", [(3, 30), (1, 1), (9, 4)])
def test_small_pairs_are_mirrored_alike(scale, size):
    lr = located(*size)
    beyond = (0, scale - 1)  # rows and columns that are cut off later
    hr = np.pad(repeated(lr, scale), (beyond, beyond, (0, 0)))
    source = Memory({"a": {"hr": hr, "lr": lr}})
    for sample in crops(source, small="pad", scale=float(scale), crop_size=10 * scale):
        assert sample["lr"].shape == (10, 10, 3)
        np.testing.assert_array_equal(sample["hr"], repeated(sample["lr"], scale))


@pytest.mark.parametrize("source", [Memory, Sized])
def test_small_images_are_replaced_by_others(source):
    images = source(SMALL)
    for number, sample in enumerate(crops(images, small="skip", plan=PLAN)):
        small = list(SMALL)[number % 5] in ("wide", "tall", "dot")
        assert sample["key"] in ("train/large", "train/enough")
        assert bool(sample["skipped"]) == small
        assert {skipped.reason for skipped in sample["skipped"]} <= {"small"}
    if source is Sized:
        assert images.reads == []  # sizes are known, so skipped images are not read


def test_a_replacement_keeps_the_seed_of_the_place():
    dataset = TrainingImages(Memory(SMALL), "train", 2.0, 12, True, small="skip", plan=PLAN)
    replaced = dataset[Item(0, 5, 0, 3)]
    index = list(SMALL).index(replaced["key"].removeprefix("train/"))
    alone = TrainingImages(Memory(SMALL), "train", 2.0, 12, True)[Item(index, 5)]
    np.testing.assert_array_equal(replaced["hr"], alone["hr"])
    assert replaced["seed"] == 5


# ------------------------------------------------------------------------------ unreadable images


def broken(number: int, reason: str = "truncated", planned: bool = True) -> Skipped:
    return Skipped(f"train/{number}", reason, f"/photos/{number}.jpg: {reason}", planned)


def test_an_image_is_tried_once_for_a_place():
    source = Sized({f"{i}": f"{i}.jpg: empty" for i in range(5)})
    with pytest.raises(ValueError, match=r"5 images .* \(damaged 5\); the first: 0\.jpg"):
        crops(source, plan=PLAN)
    assert sorted(source.reads) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("limit", "allowed"), [(0.01, 10), (0.0, 0), (0.5, 500)])
def test_below_a_thousand_samples_the_limit_is_of_a_thousand(limit, allowed):
    tally = Tally(limit)
    for number in range(allowed):
        tally.add(1, [broken(number)])
    with pytest.raises(ValueError, match=rf"\(truncated {allowed + 1}\), more than the {allowed} "):
        tally.add(1, [broken(allowed)])


def test_a_run_stops_above_the_limit_with_the_list_of_images():
    images = {"bad": "shard-7.tar: bad: cut off", **random_images(9, 8, 8).samples}
    data = data_of(Memory(images), batch_size=10, crop_size=8, per_image=50, workers=2)
    with pytest.raises(ValueError, match=r"unreadable_limit allows") as caught:
        list(training(data))
    assert str(caught.value).endswith("\n  shard-7.tar: bad: cut off")
    assert data.tally.samples < 200


# ------------------------------------------------------------------------------------------ draws


@given(st.integers(0, 2**63 - 1), st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 10**6))))
@settings(max_examples=40, deadline=None)
def test_draws_of_one_sample_are_those_of_a_batch(seed, ranges):
    one = SampleDraws(seed, "crop")
    many = Draws(np.array([seed])).fold("crop")
    for low, length in ranges:
        assert one.integer(low, low + length) == many.integers(low, low + length)[0]


class Rolled(Memory):
    """Draws by the global generators."""

    def read(self, index: int) -> Any:
        drawn = [random.random(), np.random.random(), float(torch.rand(()))]
        return {"hr": np.tile((255 * np.array(drawn)).astype(np.uint8), (12, 12, 1))}


def test_what_a_source_draws_is_of_the_samples_seed():
    images = TrainingImages(Rolled({"a": {}}), "train", 2.0, 12, False)
    torch.manual_seed(1)
    expected = float(torch.rand(()))

    torch.manual_seed(1)
    first, other, again = (images[Item(0, seed, 0, 0)]["hr"] for seed in (5, 6, 5))

    assert float(torch.rand(())) == expected
    np.testing.assert_array_equal(first, again)
    assert (first[0, 0] != other[0, 0]).all()
