"""Clips: found, cropped alike in all frames, refused if too short or of several sizes."""

from __future__ import annotations

import logging
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import SRDataModule
from datamodules.samples import SampleDraws
from datamodules.sources.clips import Clips, ClipShards, MovingCrops
from files.images.decode import UnreadableImage
from tests.datamodules.image_files import encoded, write_tar
from tests.datamodules.memory import Memory, data_of, evaluation, training

SIDE = 20


def frame(number: int, size: tuple[int, int] = (SIDE, SIDE + 4), dtype: Any = np.uint8) -> Any:
    """Red encodes the number of the frame, green the row, blue the column."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.stack([np.full(size, number), rows, columns], -1).astype(dtype)


def write(folder: Path, numbers: Any, name: str = "{}.png", **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(frame(number, **settings)).save(folder / name.format(number))
    return folder


def png(number: int) -> bytes:
    return encoded(frame(number))


def pack(path: Path, members: dict[str, bytes]) -> str:
    return str(write_tar(path, members))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Clips of 12, 8 and 6 frames; one is in a deeper folder."""
    for name, count in (("a", 12), ("b", 8), ("more/c", 6)):
        write(tmp_path / "clips" / name, range(1, count + 1))
    return tmp_path / "clips"


@pytest.fixture
def shards(tmp_path: Path) -> str:
    for shard, names in enumerate((("a", "b"), ("c", "d"))):
        members: dict[str, bytes] = {}
        for name in names:
            order = [10, 9, 8, 1, 2, 3, 4, 5, 6, 7]  # as a file system may list them
            members |= {f"{name}.{number}.png": png(number) for number in order}
            members[f"{name}.txt"] = f"clip {name}".encode()
        pack(tmp_path / f"clips-{shard}.tar", members)
    return str(tmp_path / "clips-*.tar")


def prepared(source: Any) -> Any:
    source.prepare(1.0)
    return source


def module(train: Any, **settings: Any) -> SRDataModule:
    clips = {"scale": 1.0, "batch_size": 3, "crop_size": 8, "degradation": None}
    return data_of(train, **clips | settings)


def numbers_of(clip: Any) -> list[int]:
    return [int(n) for n in clip[:, 0, 0, 0]]


# ------------------------------------------------------------------------------------------ folders


def test_folders_of_frames_are_clips(root):
    source = prepared(Clips(str(root), frames=3, stride=2))
    assert list(source.keys) == ["a", "b", "more/c"]
    sample = source.read(0)
    assert numbers_of(sample["clip"]) == [1, 3, 5]  # 10 is not before 2
    assert np.array_equal(sample["clip"][1], frame(3))
    assert list(pickle.loads(pickle.dumps(source)).keys) == list(source.keys)
    clips = [source.clip(0, SampleDraws(seed, "crop"))["clip"] for seed in range(60)]
    starts = {numbers_of(clip)[0] for clip in clips}
    assert starts == set(range(1, 9))  # 8, 10, 12 is the last


def test_frames_may_have_16_bits_and_be_made_squares(tmp_path):
    import cv2

    write(tmp_path / "a", (1, 2))
    deep = (frame(3).astype(np.uint16) * 257)[..., ::-1]
    cv2.imwrite(str(tmp_path / "a/3.png"), deep)
    clip = prepared(Clips(str(tmp_path), frames=3)).read(0)["clip"]
    assert (clip.dtype, numbers_of(clip)) == (np.uint8, [1, 2, 3])
    square = prepared(Clips(str(tmp_path), frames=3, side=10)).read(0)["clip"]
    assert square.shape == (3, 10, 10, 3)
    assert numbers_of(square) == [1, 2, 3]
    assert abs(int(square[0, 0, 0, 2]) - 2) <= 1  # two columns are cut off at each side
    assert square[0, 0, -1, 2] > 18


def test_clips_that_are_too_short_are_left_out(root, caplog):
    write(root / "one", (1,))
    with caplog.at_level(logging.WARNING):
        source = prepared(Clips(str(root), frames=7))
    assert list(source.keys) == ["a", "b"]
    assert "left out: Clips: 2 of 4 clips" in caplog.text
    assert "(more/c 6, one 1)" in caplog.text


def test_a_clip_of_unequal_frames_is_unreadable(root, caplog):
    """Evaluation fails; training takes another clip and counts it."""
    write(root / "b", (4,), size=(SIDE, SIDE))
    message = "b has frames of the shapes .*; expected one size in all frames of a clip"
    with pytest.raises(UnreadableImage, match=message):
        prepared(Clips(str(root), frames=4)).read(1)
    data = module(Clips(str(root), frames=6), per_image=3, unreadable_limit=1.0)
    keys = [key for batch in training(data) for key in batch["key"]]
    assert len(keys) == 9
    assert "train/b" not in keys
    assert data.tally.unreadable >= 3
    data = SRDataModule(1.0, workers=0, test={"own": Clips(str(root), frames=4)})
    with pytest.raises(ValueError, match=message):
        list(evaluation(data, "test"))


# ---------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("workers", [0, 1])
def test_all_frames_of_a_clip_are_cropped_alike(root, workers):
    data = module(Clips(str(root), frames=4), workers=workers, per_image=4)
    batches = list(training(data))
    for batch in batches:
        assert not {"hr", "lr"} & batch.keys()
        assert batch["clip"].shape == (3, 4, 3, 8, 8)
        assert (batch["size"], batch["frames"]) == ((8, 8), 4)
        for clip in batch["clip"]:
            # One crop and one orientation for all frames, which differ only by their number.
            assert torch.equal(clip[:, 1:], clip[:1, 1:].expand(4, -1, -1, -1))
            steps = (clip[:, 0, 0, 0] * 255).round().diff()
            assert steps.tolist() == [1, 1, 1]
    places = {tuple(clip[0, 1:].flatten().tolist()) for batch in batches for clip in batch["clip"]}
    assert len(places) == 12
    again = list(training(module(Clips(str(root), frames=4), per_image=4)))
    assert all(torch.equal(a["clip"], b["clip"]) for a, b in zip(batches, again, strict=True))
    other = next(iter(training(module(Clips(str(root), frames=4), per_image=4, seed=1))))
    assert not torch.equal(other["clip"], batches[0]["clip"])


def test_all_frames_are_augmented_alike(root):
    def brighter(hr: Any, seed: int) -> Any:
        return hr + np.uint8(seed % 7 + random.randint(1, 7))

    def first_clips(augment: Any) -> torch.Tensor:
        data = module(Clips(str(root), frames=4), flips=False, augment=augment)
        return next(training(data))["clip"] * 255

    plain = first_clips(None)
    changed = first_clips(brighter)
    steps = (changed - plain).round().flatten(1)
    assert steps.min() >= 1
    assert torch.equal(steps.min(1).values, steps.max(1).values)


# ------------------------------------------------------------------------------------------ shards


def test_clips_of_shards(shards):
    source = ClipShards(shards, frames=4, stride=3)
    data = SRDataModule(1.0, test={"own": source}, workers=1)
    found = list(evaluation(data, "test"))
    assert [batch["key"] for batch in found] == [[f"own/{name}"] for name in "abcd"]
    assert [batch["text"] for batch in found] == [[f"clip {name}"] for name in "abcd"]
    assert all(numbers_of(batch["clip"][0] * 255) == [1, 4, 7, 10] for batch in found)
    assert source.groups == [2, 2]
    again = pickle.loads(pickle.dumps(source))
    assert numbers_of(again.read(3)["clip"]) == [1, 4, 7, 10]


def test_folders_in_a_tar_are_clips(tmp_path):
    members = {f"deep/{name}/{n:04}.png": png(n) for name in "ab" for n in (1, 2, 3)}
    members |= {"deep/a/0001.txt": b"one clip", "deep/about.txt": b"no clip"}
    order = sorted(members)
    path = pack(tmp_path / "x.tar", {name: members[name] for name in order})
    source = prepared(ClipShards(path, frames=3))
    assert list(source.keys) == ["deep/a", "deep/b"]
    assert numbers_of(source.read(1)["clip"]) == [1, 2, 3]
    assert (source.read(0)["text"], source.read(1)["text"]) == ("one clip", "")


def test_a_clip_in_two_shards_is_refused(tmp_path):
    paths = [
        pack(tmp_path / f"{n}.tar", {f"a.{k}.png": png(k) for k in range(2 * n, 2 * n + 2)})
        for n in range(2)
    ]
    with pytest.raises(ValueError, match="'a/2' belongs to no clip, or to one of another"):
        prepared(ClipShards(paths, frames=2))


# ---------------------------------------------------------------------------------- moving windows


def moving(**settings: Any) -> MovingCrops:
    """Over an image whose pixels encode their position."""
    rows, columns = np.mgrid[:60, :90]
    place = np.stack([rows, columns, rows * 0], -1).astype(np.uint8)
    given = {"source": Memory({"p": {"hr": place}}), "side": 10, "frames": 5}
    return prepared(MovingCrops(**given | settings))


def test_a_window_moves_evenly_and_stays_inside():
    source, ways = moving(speed=2.0), []
    for seed in range(200):
        clip = source.clip(0, SampleDraws(seed, "crop"))["clip"].astype(int)
        assert clip.shape == (5, 10, 10, 3)
        assert np.array_equal(clip[:, -1, -1, :2] - clip[:, 0, 0, :2], np.full((5, 2), 9))
        ways.append(clip[:, 0, 0, :2])
    steps = np.diff(np.stack(ways), axis=1)
    assert abs(steps).max() == 2
    assert (steps.max(1) - steps.min(1)).max() <= 1  # constant speed, rounded to pixels
    first = np.stack(ways)[:, 0]
    assert first.min() < 6
    assert first[:, 1].max() > 70
    assert abs(steps.mean()) < 0.2  # to all sides


def test_windows_are_made_smaller_by_means():
    clip = moving(reduce=4, speed=0.5).clip(0, SampleDraws(3, "crop"))["clip"].astype(float)
    assert clip.shape == (5, 10, 10, 3)
    assert np.allclose(np.diff(clip[0, 0, :, 1]), 4)
    assert abs(np.diff(clip[:, 0, 0, :2], axis=0)).max() <= 2  # half a pixel of a frame
