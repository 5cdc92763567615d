"""The contract can fail: Sources that break it, each caught by the test that is meant to."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.base import Source
from datamodules.order.shuffle import Mixture
from tests.contracts.source_contract import SCALE, SourceContract, SourceExample

CHECK = SourceContract()


class Plain(Source):
    """Keeps the contract; those below break it."""

    def prepare(self, scale: float) -> None:
        self.names = ["a", "b"]

    @property
    def keys(self):
        return self.names

    def read(self, index):
        return {"hr": np.full((16, 18, 3), index, np.uint8), "meta": {"path": str(index)}}


class Twins(Plain):
    def prepare(self, scale):
        self.names = ["a", "a"]


class Grows(Plain):
    names = ()

    def prepare(self, scale):
        self.names = [*self.names, f"k{len(self.names)}"]


class Counts(Plain):
    made = 0

    def __init__(self):
        super().__init__()
        Counts.made += 1
        self.number = Counts.made

    def read(self, index):
        return {"hr": np.full((16, 18, 3), self.number, np.uint8)}


class PairOfOne(Plain):
    def size(self, index):
        return 16, 18

    def read(self, index):
        return {"hr": np.zeros((16, 18, 3), np.uint8), "lr": np.zeros((8, 9, 3), np.uint8)}


class Shifted(Plain):
    def read(self, index):
        return {"hr": np.arange(16 * 18 * 3, dtype=np.uint16).reshape(16, 18, 3)}

    def read_crop(self, index, top, left, height, width):
        return super().read_crop(index, max(top - 1, 0), left, height, width)


class Uneven(Plain):
    @property
    def mixture(self):
        return Mixture((2,), (1.0,), 2)


class OneOfItsOwn(Plain):
    def prepare(self, scale):
        super().prepare(scale)
        self.samples = [Plain.read(self, i) for i in range(2)]

    def read(self, index):
        return self.samples[index]


class Random(Plain):
    def read(self, index):
        return {"hr": np.random.randint(0, 255, (16, 18, 3), np.uint8)}


class Unpicklable(Plain):
    def prepare(self, scale):
        super().prepare(scale)
        self.f = lambda x: x


class Swallows(Plain):
    def read(self, index):
        raise ValueError("broken")


def prepared(cls):
    source = cls()
    source.prepare(SCALE)
    return source


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (Twins, CHECK.test_keys),
        (Grows, CHECK.test_preparing_it_again_changes_nothing),
        (PairOfOne, CHECK.test_sizes),
        (Shifted, CHECK.test_a_crop_is_a_part_of_the_image),
        (Uneven, CHECK.test_mixture),
        (OneOfItsOwn, CHECK.test_reading_again_gives_the_same),
        (Random, CHECK.test_reading_again_gives_the_same),
        (Unpicklable, CHECK.test_it_pickles_and_stays_small),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_source_is_caught(cls, check):
    with pytest.raises((AssertionError, AttributeError)):
        check(prepared(cls))


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (Counts, lambda e: CHECK.test_every_new_one_is_the_same(prepared(e.make), e)),
        (Random, CHECK.test_reading_uses_no_global_generator),
        (Random, CHECK.test_evaluation),
        (Swallows, CHECK.test_a_damaged_image),
        (Plain, CHECK.test_a_damaged_image),
        (Plain, CHECK.test_data_that_is_not_there),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_example_is_caught(cls, check):
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        check(SourceExample(cls, cls, cls))


def test_a_sound_one_passes():
    example = SourceExample(Plain)
    CHECK.test_keys(prepared(Plain))
    CHECK.test_samples(prepared(Plain))
    CHECK.test_sizes(prepared(Plain))
    CHECK.test_a_crop_is_a_part_of_the_image(prepared(Plain))
    CHECK.test_reading_again_gives_the_same(prepared(Plain))
    CHECK.test_it_pickles_and_stays_small(prepared(Plain))
    CHECK.test_evaluation(example)
    CHECK.test_training(prepared(Plain), example)
