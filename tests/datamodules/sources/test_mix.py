"""Mix: keys, shares, order and resume as one source; and sources that cannot be mixed."""

from __future__ import annotations

from collections import Counter

import pytest

from datamodules.base import SRDataModule
from datamodules.sources.mix import Mix
from degradations.bicubic import Bicubic
from tests.datamodules.memory import (
    Memory,
    evaluation,
    noisy,
    random_image,
    random_images,
    training,
)
from tests.datamodules.test_base import data_of


class Sharded(Memory):
    """Groups of five; records announced groups."""

    def __init__(self, count, seed=0):
        super().__init__(
            {f"s{i:02d}": {"hr": random_image(16, 20, seed + i)} for i in range(count)}
        )
        self.got = []

    @property
    def groups(self):
        return [5] * (len(self.samples) // 5)

    def size(self, index):
        return 16, 20

    def upcoming(self, groups):
        self.got.append(list(groups))


def mixed(**settings):
    sources = {"photos": Sharded(40), "faces": Sharded(10, seed=100)}
    return Mix(sources, **{"weights": {"photos": 3, "faces": 1}} | settings)


def names(batches):
    return Counter(key.split("/")[1] for batch in batches for key in batch["key"])


class TestTraining:
    def test_shares(self):
        data = data_of(mixed(samples=1024), batch_size=16)
        batches = list(training(data))
        assert len(batches) == 64
        assert names(batches) == {"photos": 768, "faces": 256}
        each = Counter(key for batch in batches for key in batch["key"])
        assert {n for key, n in each.items() if "photos" in key} == {19, 20}
        assert {n for key, n in each.items() if "faces" in key} == {25, 26}

    def test_shares_within_a_share(self):
        plain = mixed(samples=256)
        plain.prepare(2.0)
        assert plain.mixture.weights == (3, 1)
        inner = mixed(samples=7)
        data = data_of(Mix({"mixed": inner, "rest": Sharded(10, 200)}, samples=512), batch_size=16)
        each = Counter(key.rpartition("/")[0] for b in training(data) for key in b["key"])
        assert sum(each.values()) == 512
        # 50 of 60 images, three quarters of them; exact to one in each block of 256.
        for name, share in (("mixed/photos", 320), ("mixed/faces", 320 / 3), ("rest", 256 / 3)):
            assert abs(each[f"train/{name}"] - share) <= 1

    def test_sources_are_told_their_own_groups(self):
        data = data_of(mixed(), batch_size=4, streams=2)
        list(training(data))
        for source in data.train.sources.values():
            assert source.got
            assert {g for groups in source.got for g in groups} == set(range(len(source.groups)))

    def test_the_state_knows_the_shares(self):
        def state(**settings):
            data = data_of(mixed(**settings))
            data.setup("fit")
            return data

        before = state().state_dict()
        assert before["mixture"] == [[8, 2], [3.0, 1.0], 50]
        state().load_state_dict(before)
        for settings in ({"weights": {"photos": 1, "faces": 1}}, {"samples": 60}):
            with pytest.raises(ValueError, match=r"weights and samples of data\.init_args\.train"):
                state(**settings).load_state_dict(before)
        plain = data_of(Sharded(50))
        plain.setup("fit")
        with pytest.raises(ValueError, match="another order of samples"):
            plain.load_state_dict(before)


class TestEvaluation:
    def test_every_image_once(self):
        data = SRDataModule(2, val={"both": mixed()}, degradation=noisy(), workers=0)
        keys = [key for batch in evaluation(data, "val") for key in batch["key"]]
        assert keys == [f"both/photos/s{i:02d}" for i in range(40)] + [
            f"both/faces/s{i:02d}" for i in range(10)
        ]

    def test_paths_and_sizes(self, tmp_path):
        mix = mixed()
        mix.prepare(2.0)
        assert mix.size(45) == (16, 20)
        assert mix.path(45) is None
        assert mix.keys[45] == "faces/s05"


class TestWhatCannotBeMixed:
    def test_a_weight_of_no_source(self):
        with pytest.raises(ValueError, match="photo"):
            Mix({"photos": random_images(1)}, weights={"photo": 1})

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (
                Memory(random_images(1).samples, degradation=Bicubic(2)),
                "has its own degradation",
            ),
        ],
    )
    def test_sources(self, source, message):
        mix = Mix({"a": random_images(1), "b": source})
        with pytest.raises(ValueError, match=message):
            mix.prepare(2.0)

    @pytest.mark.parametrize("name", ["text", "lr"])
    def test_kinds(self, name):
        value = {"text": "the sea", "lr": random_image(16, 20)}[name]
        rich = Memory({"a": {"hr": random_image(32, 40), name: value}})
        mix = Mix({"plain": random_images(4), "rich": rich})
        with pytest.raises(ValueError, match=rf"'{name}'.* mix sources of one kind"):
            list(training(data_of(mix, batch_size=1, degradation=noisy())))
