"""Sources around other sources: Crops, OneLR, Mix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

from datamodules.base import Source, SRDataModule
from datamodules.sources.clips import MovingCrops
from datamodules.sources.crops import Crops, OneLR
from datamodules.sources.folder import Folder
from datamodules.sources.mix import Mix
from degradations.bicubic import Bicubic
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


class Numbered(Source):
    """Images in which every pixel encodes its image, row and column."""

    def __init__(self, sizes=((40, 60), (64, 48)), pairs=False):
        super().__init__()
        self.sizes, self.pairs, self.reads = sizes, pairs, []

    @property
    def keys(self):
        return [f"p{i}" for i in range(len(self.sizes))]

    @property
    def groups(self):
        return [1] * len(self.sizes)

    def read(self, index):
        self.reads.append(index)
        rows, columns = np.indices(self.sizes[index])
        hr = np.stack([np.full(rows.shape, index), rows, columns], -1).astype(np.uint8)
        return {"hr": hr, "lr": hr[::2, ::2]} if self.pairs else {"hr": hr, "text": f"{index}"}


def crops_of(source, *arguments, **options):
    made = Crops(source, *arguments, **options)
    made.prepare(2.0)
    return made


def corners(crops):
    return [tuple(crops.read(i)["hr"][0, 0].tolist()) for i in range(len(crops.keys))]


def test_squares_lie_within_their_images():
    crops = crops_of(Numbered(), size=32, per_image=50)
    assert len(crops.keys) == len(set(crops.keys)) == 100
    assert crops.groups == [50, 50]
    for index, (image, top, left) in enumerate(corners(crops)):
        sample = crops.read(index)
        assert image == index // 50
        assert sample["text"] == str(image)
        rows, columns = np.indices((32, 32))
        np.testing.assert_array_equal(sample["hr"][..., 1], rows + top)
        np.testing.assert_array_equal(sample["hr"][..., 2], columns + left)
    tops = {top for image, top, _ in corners(crops) if image == 0}
    assert min(tops) == 0  # every position is possible
    assert max(tops) == 40 - 32


def test_a_place_follows_from_the_name_alone():
    many = crops_of(Numbered(), 32, 5)
    places = dict(zip(many.keys, corners(many), strict=True))
    few = crops_of(Numbered(), 32, 2)
    assert [places[key] for key in few.keys] == corners(few)
    assert len(set(places.values())) > 5


@pytest.mark.parametrize(
    ("name", "around"),
    [
        ("Crops", lambda source: Crops(source, 16)),
        ("OneLR", lambda source: OneLR(source, 8)),
        ("MovingCrops", lambda source: MovingCrops(source, 8)),
        ("Mix", lambda source: Mix({"a": source})),
    ],
)
def test_settings_of_the_inner_source_do_not_vanish(name, around):
    source = Numbered()
    source.degradation = Bicubic(2.0)
    with pytest.raises(ValueError, match=rf"{name}\..*has its own degradation"):
        around(source).prepare(2.0)
    source.degradation, source.scale = None, 3.0
    with pytest.raises(ValueError, match=rf"{name}\..*has its own scale"):
        around(source).prepare(2.0)
    around(source).prepare(3.0)


# ------------------------------------------------------------------------------------------ OneLR


FACES = {5.3125: 85, 7: 112, 10: 160, 10.6875: 171, 12: 192}
FACE = photographs.astronaut()[:256, 100:356]


def resized(side: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(FACE).resize(side[::-1], Image.BICUBIC))


def test_faces_at_all_their_scales():
    source = Memory({"face": {"hr": FACE, "text": "a face"}})
    sources = {str(scale): OneLR(source, 16, scale=scale) for scale in FACES}
    batches = list(evaluation(SRDataModule(10, test=sources, workers=0), "test"))
    for side, batch in zip(FACES.values(), batches, strict=True):
        assert batch["size"] == (side, side)
        assert batch["text"] == ["a face"]
        for name, size in (("hr", side), ("lr", 16)):
            expected = torch.from_numpy(resized((size, size)).copy()).permute(2, 0, 1) / 255
            assert torch.equal(batch[name][0], expected)
    assert [b["key"] for b in batches] == [[f"{scale}/face"] for scale in FACES]
    assert len({int(b["seed"]) for b in batches}) == 1  # else stages would not be shared


def test_images_that_are_no_squares():
    lr = OneLR(Memory({"a": {"hr": FACE[:171]}}), (24, 36), scale=2.7)
    lr.prepare(2.7)
    sample = lr.read(0)
    assert sample["hr"].shape == (65, 97, 3)  # 64.8 and 97.2
    assert sample["lr"].shape == (24, 36, 3)


def test_squares_keep_transparency_and_sources_within_others_are_converted(tmp_path):
    alpha = random_image(40, 40)[..., :1]
    hr = np.full((40, 40, 3), 99, np.uint8)
    Image.fromarray(np.concatenate([hr, alpha], 2)).save(tmp_path / "a.png")
    inner = Folder(str(tmp_path))
    squares = Crops(Mix({"x": inner}), size=8, per_image=1)
    squares.srgb = False
    squares.prepare(2.0)
    assert inner.srgb is False
    windows = np.lib.stride_tricks.sliding_window_view(alpha[..., 0], (8, 8))
    found = squares.read(0)["meta"]["alpha"]
    assert (windows == found).all((2, 3)).sum() == 1


# --------------------------------------------------------------------------------------------- Mix


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
