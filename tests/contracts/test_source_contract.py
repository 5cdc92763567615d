"""The contract can fail: Sources that break it, each caught by the test that is meant to."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.base import Source
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


class Random(Plain):
    def read(self, index):
        return {"hr": np.random.randint(0, 255, (16, 18, 3), np.uint8)}


def prepared(cls):
    source = cls()
    source.prepare(SCALE)
    return source


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (Twins, CHECK.test_keys),
        (PairOfOne, CHECK.test_sizes),
        (Shifted, CHECK.test_a_crop_is_a_part_of_the_image),
        (Random, CHECK.test_reading_again_gives_the_same),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_source_is_caught(cls, check):
    with pytest.raises((AssertionError, AttributeError)):
        check(prepared(cls))


def test_draws_of_a_global_generator_are_caught():
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        CHECK.test_reading_uses_no_global_generator(SourceExample(Random, Random, Random))
