"""Mix: keys, shares and order as of one source; and sources that cannot be mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from datamodules.sources.mix import Mix
from tests.datamodules.memory import (
    Memory,
    data_of,
    evaluation,
    keys_of,
    opened,
    random_image,
    random_images,
    training,
)


class Sharded(Memory):
    """Groups of five; records announced groups."""

    def __init__(self, count: int, seed: int = 0) -> None:
        images = {f"s{i:02d}": {"hr": random_image(16, 20, seed + i)} for i in range(count)}
        super().__init__(images)
        self.announced: set[int] = set()

    @property
    def groups(self) -> list[int]:
        return [5] * (len(self.samples) // 5)

    def upcoming(self, groups: Sequence[int]) -> None:
        self.announced |= set(groups)


def mixed(**settings: Any) -> Mix:
    sources = {"photos": Sharded(40), "faces": Sharded(10, seed=100)}
    return Mix(sources, **{"weights": {"photos": 3, "faces": 1}} | settings)


def test_shares_are_exact_and_images_of_a_source_equally_frequent():
    keys = keys_of(training(data_of(mixed(samples=1024), batch_size=16)))
    assert Counter(key.split("/")[1] for key in keys) == {"photos": 768, "faces": 256}
    counts = Counter(keys)
    assert {count for key, count in counts.items() if "photos" in key} == {19, 20}
    assert {count for key, count in counts.items() if "faces" in key} == {25, 26}


def test_shares_within_a_share():
    both = Mix({"mixed": mixed(samples=7), "rest": Sharded(10, 200)}, samples=512)
    keys = keys_of(training(data_of(both, batch_size=16)))
    counts = Counter(key.rpartition("/")[0] for key in keys)
    assert counts.total() == 512
    # 50 of 60 images, three quarters of them; exact to one in each block of 256.
    for name, share in (("mixed/photos", 320), ("mixed/faces", 320 / 3), ("rest", 256 / 3)):
        assert abs(counts[f"train/{name}"] - share) <= 1


def test_sources_are_told_their_own_groups():
    data = data_of(mixed(), streams=2)
    list(training(data))
    for source in data.train.sources.values():
        assert source.announced == set(range(len(source.groups)))


@pytest.mark.parametrize("change", [{"weights": {"photos": 1, "faces": 1}}, {"samples": 60}])
def test_a_run_does_not_go_on_with_other_shares(change):
    state = opened(mixed()).state_dict()
    assert state["mixture"] == [[8, 2], [3.0, 1.0], 50]
    opened(mixed()).load_state_dict(state)
    other = opened(mixed(**change))
    with pytest.raises(ValueError, match=r"weights and samples of data\.init_args\.train"):
        other.load_state_dict(state)


def test_evaluation_has_every_image_once():
    keys = keys_of(evaluation(data_of(val={"both": mixed()}), "val"))
    photos = [f"both/photos/s{i:02d}" for i in range(40)]
    assert keys == photos + [f"both/faces/s{i:02d}" for i in range(10)]


@pytest.mark.parametrize("name", ["text", "lr"])
def test_sources_of_two_kinds_are_refused(name):
    value = "the sea" if name == "text" else random_image(16, 20)
    rich = Memory({"a": {"hr": random_image(32, 40), name: value}})
    mix = Mix({"plain": random_images(4), "rich": rich})
    with pytest.raises(ValueError, match=rf"'{name}'.* mix sources of one kind"):
        list(training(data_of(mix, batch_size=1)))
