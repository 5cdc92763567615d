"""Clips: found, cropped alike in all frames, refused if too short or of several sizes."""

import pickle
import random

import cv2
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from datamodules.base import SRDataModule
from datamodules.samples import SampleDraws
from datamodules.sources.clips import Clips, ClipShards, MovingCrops
from files.images.decode import UnreadableImage
from tests.datamodules.image_files import encoded, save_pixels, write_tar
from tests.datamodules.memory import Memory, data_of, evaluation, keys_of, located, training


def frame(number, height=20, width=24):
    """Red encodes the number of the frame, green the row, blue the column."""
    pixels = located(height, width)[..., [2, 0, 1]]
    pixels[..., 0] = number
    return pixels


def write(folder, count):
    """A clip as a folder of frames, 1.png and so on."""
    for number in range(1, count + 1):
        save_pixels(folder / f"{number}.png", frame(number))
    return folder


@pytest.fixture
def root(tmp_path):
    """Clips of 12, 8 and 6 frames; one is in a deeper folder."""
    write(tmp_path / "a", 12)
    write(tmp_path / "b", 8)
    write(tmp_path / "more/c", 6)
    return tmp_path


def prepared(source):
    source.prepare(scale=1.0)
    return source


def data_module(train, **settings):
    clips = {"scale": 1.0, "batch_size": 3, "crop_size": 8, "degradation": None}
    return data_of(train, **clips | settings)


def drawn(source, seed):
    """The clip of a training sample."""
    return source.clip(0, SampleDraws(seed, "crop"))["clip"].astype(int)


def numbers_of(clip):
    """The numbers of a clip's frames."""
    return clip[:, 0, 0, 0].tolist()


# ------------------------------------------------------------------------------------------ folders


def test_folders_of_frames_are_clips(root):
    source = prepared(Clips(str(root), frames=3, stride=2))
    clip = source.read(0)["clip"]

    assert source.keys == ["a", "b", "more/c"]
    assert numbers_of(clip) == [1, 3, 5]  # 10.png is not before 2.png
    assert_array_equal(clip[1], frame(3))


def test_a_clip_of_training_begins_at_any_frame_from_which_it_fits(root):
    source = prepared(Clips(str(root), frames=3, stride=2))
    starts = {numbers_of(drawn(source, seed))[0] for seed in range(60)}
    assert starts == set(range(1, 9))  # of 12 frames, the last clip has 8, 10 and 12


def test_a_frame_of_16_bits_is_read_as_8_bits(tmp_path):
    write(tmp_path / "a", 2)
    cv2.imwrite(str(tmp_path / "a/3.png"), frame(3)[..., ::-1].astype(np.uint16) * 257)

    clip = prepared(Clips(str(tmp_path), frames=3)).read(0)["clip"]

    assert clip.dtype == np.uint8
    assert numbers_of(clip) == [1, 2, 3]


def test_frames_are_shrunk_and_cut_to_squares_of_a_side(root):
    square = prepared(Clips(str(root), frames=3, side=10)).read(0)["clip"]

    assert square.shape == (3, 10, 10, 3)
    # Of 20 x 24 pixels, 24 columns become 12, and one is cut off at each side: the first one that
    # is kept was 2 and 3, the last one 20 and 21.
    columns = square[0, 0, :, 2]
    assert columns[0] == pytest.approx(2.5, abs=1)
    assert columns[-1] == pytest.approx(20.5, abs=1)


def test_clips_that_are_too_short_are_left_out(root, caplog):
    source = prepared(Clips(str(root), frames=7))
    assert source.keys == ["a", "b"]
    assert "left out: Clips: 1 of 3 clips" in caplog.text
    assert "(more/c 6)" in caplog.text


def test_a_clip_of_unequal_frames_is_unreadable(root):
    """Evaluation fails; training takes another clip and counts it."""
    save_pixels(root / "b/4.png", frame(4, height=20, width=20))
    message = "b has frames of the shapes .*; expected one size in all frames of a clip"

    data = data_module(Clips(str(root), frames=6), per_image=3, unreadable_limit=1.0)
    keys = keys_of(training(data))

    assert len(keys) == 9  # 3 clips, 3 times each
    assert "train/b" not in keys
    assert data.tally.unreadable >= 3  # b, three times or more: it may be chosen as replacement
    with pytest.raises(UnreadableImage, match=message):
        prepared(Clips(str(root), frames=4)).read(1)
    with pytest.raises(ValueError, match=message):
        list(evaluation(data_module(None, test={"own": Clips(str(root), frames=4)}), "test"))


# ---------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("workers", [0, 1])
def test_all_frames_of_a_clip_are_cropped_alike(root, workers):
    data = data_module(Clips(str(root), frames=4), workers=workers, per_image=4)
    places = set()
    for batch in training(data):
        assert not {"hr", "lr"} & batch.keys()
        assert batch["clip"].shape == (3, 4, 3, 8, 8)
        assert batch["size"] == (8, 8)
        assert batch["frames"] == 4
        # (B, frames, 3, H, W): red is the number of the frame, green and blue are rows and columns.
        for clip in (batch["clip"] * 255).round().int():
            number = clip[:, 0]
            place = clip[:, 1:]
            assert_array_equal(place[1:], place[:-1])  # one crop and one orientation
            assert_array_equal(number[1:], number[:-1] + 1)
            places.add(str(place[0].tolist()))
    assert len(places) == 12  # each of 3 clips, 4 times, with crops that all differ


def brighter(hr, seed):
    """Draws by the seed, and from a global generator, as an augmentation of a user may."""
    return hr + np.uint8(seed % 7 + random.randint(1, 7))


def test_all_frames_of_a_clip_are_augmented_alike(root):
    """Else the clip would flicker."""
    source = Clips(str(root), frames=4)
    plain = next(training(data_module(source, flips=False)))["clip"]
    changed = next(training(data_module(source, flips=False, augment=brighter)))["clip"]

    more = (255 * (changed - plain)).round().flatten(1)
    lowest, highest = more.aminmax(dim=1)

    assert lowest.min() >= 1  # every frame was made brighter
    assert torch.equal(lowest, highest)


# ------------------------------------------------------------------------------------------ shards


def test_clips_of_shards_have_captions_and_frames_in_the_order_of_their_numbers(tmp_path):
    order = [10, 9, 8, 1, 2, 3, 4, 5, 6, 7]  # as a file system may list them
    for name in ("a", "b"):
        members = {f"{name}.{n}.png": encoded(frame(n)) for n in order}
        members[f"{name}.txt"] = f"clip {name}".encode()
        write_tar(tmp_path / f"{name}.tar", members)
    source = ClipShards(f"{tmp_path}/*.tar", frames=4, stride=3)

    first, second = evaluation(SRDataModule(scale=3.0, test={"own": source}, workers=1), "test")

    assert source.groups == [1, 1]  # one clip in each shard
    assert first["key"] == ["own/a"]
    assert second["text"] == ["clip b"]
    clip = (second["clip"][0] * 255).round().permute(0, 2, 3, 1)
    assert numbers_of(clip) == [1, 4, 7, 10]
    assert_array_equal(clip[0], frame(1)[:18])  # 20 rows, cut to a multiple of the scale
    of_a_worker = pickle.loads(pickle.dumps(source))
    assert numbers_of(of_a_worker.read(1)["clip"]) == [1, 4, 7, 10]


def test_folders_in_a_tar_are_clips(tmp_path):
    members = {"deep/a/0001.txt": b"one clip", "deep/about.txt": b"no clip"}
    for clip in ("a", "b"):
        members |= {f"deep/{clip}/{n:04}.png": encoded(frame(n)) for n in (1, 2, 3)}
    tar = write_tar(tmp_path / "x.tar", members)

    source = prepared(ClipShards(str(tar), frames=3))

    assert source.keys == ["deep/a", "deep/b"]
    assert source.read(0)["text"] == "one clip"
    assert source.read(1)["text"] == ""
    assert numbers_of(source.read(1)["clip"]) == [1, 2, 3]


# ---------------------------------------------------------------------------------- moving windows


def moving(**settings):
    """A window of 10 pixels over an image of 60 x 90 whose pixels are their own place."""
    image = Memory({"p": {"hr": located(60, 90), "text": "the sea"}})
    return prepared(MovingCrops(source=image, side=10, frames=5, **settings))


def test_a_window_moves_at_constant_speed_from_anywhere_to_any_side():
    source = moving(speed=2.0)
    clips = np.stack([drawn(source, seed) for seed in range(200)])
    places = clips[:, :, 0, 0, :2]  # row and column of the window's corner, of each frame
    steps = np.diff(places, axis=1)

    assert clips.shape == (200, 5, 10, 10, 3)
    assert_array_equal(clips[:, :, -1, -1, :2], places + 9)  # the window has 10 pixels
    assert abs(steps).max() == 2  # the speed
    assert np.ptp(steps, axis=1).max() <= 1  # constant, but for rounding to pixels
    # First frames begin near either border: a window of 10 fits from column 0 to 90 - 10 = 80.
    assert places[:, 0].min() < 6
    assert places[:, 0, 1].max() > 70
    assert abs(steps.mean()) < 0.2  # as many to one side as to the other


def test_in_evaluation_each_clip_of_an_image_has_its_caption_and_a_path_of_its_own():
    source = moving(per_image=2)
    first = source.read(0)["clip"]
    second = source.read(1)

    assert second["text"] == "the sea"
    assert (second["clip"] != first).any()
    assert_array_equal(source.read(0)["clip"], first)


def test_windows_are_made_smaller_by_means():
    clip = drawn(moving(reduce=4, speed=0.5), seed=3)
    assert clip.shape == (5, 10, 10, 3)
    assert_array_equal(np.diff(clip[0, 0, :, 1]), 4)  # each pixel stands for 4 columns
    assert abs(np.diff(clip[:, 0, 0, :2], axis=0)).max() <= 2  # 0.5 pixels of a frame, times 4

    stripes = Memory({"p": {"hr": located(60, 90) % 4 * 50}})  # rows and columns 0, 50, 100, 150
    means = drawn(prepared(MovingCrops(source=stripes, side=10, frames=5, reduce=4)), seed=3)
    assert (means[..., :2] == 75).all()
