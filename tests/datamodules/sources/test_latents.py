"""Sources that give no pairs: latents, prompts and seeds, judged triplets."""

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from datamodules.batches import collate, to_floats
from datamodules.order.plan import Item
from datamodules.shards.writer import write_shard
from datamodules.sources.latents import ABOUT, Latents, TrainingLatents, add_latents
from datamodules.sources.prompts import Prompts, Seeds
from datamodules.sources.triplets import PARTS, Triplets
from files.images.decode import UnreadableImage
from tests.datamodules.image_files import npy, pixels, save, save_pixels
from tests.datamodules.memory import data_of, training

LATENT = np.arange(24, dtype=np.float16).reshape(2, 3, 4)


def latents(folder, *samples, **about):
    """A folder as `encode` leaves it: members of the samples by suffix, and the description."""
    folder.mkdir()
    samples = samples or [{"latent.npy": npy(LATENT)}, {"latent.npy": npy(LATENT + 1)}]
    numbered = [(f"a/{number}", members) for number, members in enumerate(samples)]
    write_shard(folder / "latents-000000.tar", numbered)
    about = {"space": "Space 0123", "factor": 8, "scale": None} | about
    (folder / ABOUT).write_text(json.dumps(about))
    return Latents(f"{folder}/*.tar")


def prepared(source, scale=2.0):
    source.prepare(scale)
    return source


def test_a_batch_of_latents_has_the_size_of_their_images_and_the_name_of_their_space(tmp_path):
    """By these a model refuses latents of another autoencoder, and knows the size to decode to."""
    source = prepared(latents(tmp_path / "out"))
    # Latents are taken whole, as they were made of crops: crop_size and flips have no effect.
    dataset = TrainingLatents(source, "train", scale=2.0, crop_size=96, flips=True)

    batch = collate(dataset.__getitems__([Item(1, seed=1), Item(0, seed=0)]))
    add_latents(batch, source)

    assert source.groups == [2]  # one shard of two samples
    assert batch["key"] == ["train/a/1", "train/a/0"]
    assert_array_equal(batch["latent"], [LATENT + 1, LATENT])
    assert batch["latent"].dtype == torch.float32
    assert batch["size"] == (24, 32)  # 8 times (3, 4)
    assert batch["space"] == "Space 0123"


def npy_with_header(header):
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(npy(np.zeros((1, 2, 2), int)), r"is int64 \(1, 2, 2\)", id="integers"),
        pytest.param(npy(np.array([None, {}])), "allow_pickle", id="a pickle, which is code"),
        pytest.param(npy_with_header(b"{'descr': '<f4', 'shape': (2,\n"), "EOF", id="a cut header"),
        pytest.param(b"PK\x03\x04 no archive", "zip", id="a broken archive"),
        pytest.param(b"PK\x05\x06" + bytes(18), "dim", id="an empty archive"),
    ],
)
def test_a_damaged_latent_is_unreadable(tmp_path, data, message):
    source = prepared(latents(tmp_path / "out", {"latent.npy": data}))
    with pytest.raises(UnreadableImage, match=message):
        source.read(0)


def test_samples_without_latents_are_refused(tmp_path):
    source = latents(tmp_path / "out", {"txt": b"the sea"})
    with pytest.raises(ValueError, match=r"expected a member latent\.npy"):
        source.prepare(scale=2.0)


def test_latents_of_another_scale_are_refused(tmp_path):
    source = latents(tmp_path / "out", scale=4.0)
    with pytest.raises(ValueError, match=r"scale 4, but data\.init_args\.scale is 2"):
        source.prepare(scale=2.0)


def test_latents_without_their_description_are_refused(tmp_path):
    source = latents(tmp_path / "out")
    for damage in (lambda path: path.write_text("{"), lambda path: path.unlink()):
        damage(tmp_path / "out" / ABOUT)
        with pytest.raises(ValueError, match=r"encode\.json, which .* is missing or damaged"):
            source.prepare(scale=2.0)


def test_sets_that_were_not_encoded_alike_are_refused(tmp_path):
    one = latents(tmp_path / "one").urls
    two = latents(tmp_path / "two", space="Space 4567").urls
    with pytest.raises(ValueError, match=r"space differ in .*one/.* and .*two/"):
        Latents([one, two]).prepare(scale=2.0)


def test_features_of_captions_are_filled_up_to_the_longest(tmp_path):
    short = np.full((2, 3), 1, np.float16)
    long = np.full((5, 3), 2, np.float16)
    members = [
        {"latent.npy": npy(LATENT), "text_features.npy": npy(text)} for text in (short, long)
    ]
    source = prepared(latents(tmp_path / "out", *members))

    batch = collate([{"key": "a", "seed": n, **source.read(n)} for n in range(2)])

    assert batch["text_lengths"].tolist() == [2, 5]
    assert_array_equal(batch["text_features"][0, :2], short)
    assert_array_equal(batch["text_features"][0, 2:], 0)
    assert_array_equal(batch["text_features"][1], long)


# ------------------------------------------------------------------------------- Seeds and prompts


def test_seeds_have_numbers_for_keys_and_one_size():
    source = Seeds(count=3, size=[16, 24])
    assert source.keys == ["000000", "000001", "000002"]
    assert source.read(1) == {"size": (16, 24)}
    assert Seeds(count=3, size=16).read(1) == {"size": (16, 16)}


def test_each_line_of_a_file_is_a_prompt(tmp_path, caplog):
    """Its key is the number of the line and a hash of the text; empty lines are counted."""
    caplog.set_level("INFO")
    # U+2028 is a line break to `str.splitlines`, but not to an editor.
    text = "\ufeffa red car\n\n  a dog \r\n\t\nün ours blanc\u2028assis\na red car"
    (tmp_path / "prompts.txt").write_text(text, encoding="utf-8")

    source = prepared(Prompts(str(tmp_path / "prompts.txt"), size=32))
    samples = [source.read(index) for index in range(4)]
    lines, hashes = zip(*[key.split("-") for key in source.keys], strict=True)

    assert "prompts.txt: 2 empty lines skipped" in caplog.text
    assert samples[1] == {"size": (32, 32), "text": "a dog"}
    assert samples[2]["text"] == "ün ours blanc\u2028assis"
    assert samples[0] == samples[3]
    assert lines == ("000001", "000003", "000005", "000006")
    assert hashes[0] == hashes[3]
    assert hashes[0] != hashes[1]


def test_a_size_of_a_batch_is_a_tuple_after_pinned_memory():
    batch = {"size": [32, 48]}  # torch pins a tuple of numbers as a list
    to_floats(batch)
    assert batch["size"] == (32, 48)


# --------------------------------------------------------------------------------- Judged triplets


def write_triplets(folder, names, judge=0.25):
    """Images of 20x20 pixels: p0 is ref with all colours 1 higher, p1 with all 2 higher."""
    for name in names:
        ref = pixels((20, 20), seed=ord(name)) // 2
        save_pixels(folder / "ref" / f"{name}.png", ref)
        save_pixels(folder / "p0" / f"{name}.png", ref + 1)
        save_pixels(folder / "p1" / f"{name}.png", ref + 2)
    (folder / "judge").mkdir()
    for name in names:
        np.save(folder / "judge" / f"{name}.npy", np.array([judge], np.float32))
    return folder


def test_triplets_are_found_in_folders_at_any_depth_and_read(tmp_path):
    write_triplets(tmp_path / "cnn", "ab", judge=0.0)
    write_triplets(tmp_path / "more/mix", "a", judge=1.0)

    source = prepared(Triplets(str(tmp_path)))
    below = prepared(Triplets(str(tmp_path / "cnn")))
    sample = source.read(2)

    assert source.keys == ["cnn/a", "cnn/b", "more/mix/a"]
    assert below.keys == ["a", "b"]
    assert set(sample) == {*PARTS, "judge"}
    assert sample["judge"] == 1.0
    assert_array_equal(sample["ref"] + 2, sample["p1"])


@pytest.mark.parametrize("workers", [0, 1])
def test_crops_of_a_triplet_lie_in_one_place(tmp_path, workers):
    settings = {"scale": 1.0, "batch_size": 3, "crop_size": 8, "degradation": None}
    source = Triplets(str(write_triplets(tmp_path / "set", "abcdef")))

    first, second = training(data_of(source, workers=workers, **settings))

    assert sorted(first["key"] + second["key"]) == [f"train/{name}" for name in "abcdef"]
    assert not {"hr", "lr", "size"} & set(first)
    assert first["ref"].shape == (3, 3, 8, 8)
    assert first["judge"].tolist() == [0.25] * 3
    torch.testing.assert_close(first["p0"], first["ref"] + 1 / 255)
    torch.testing.assert_close(first["p1"], first["ref"] + 2 / 255)


def test_an_unreadable_triplet_is_named(tmp_path):
    folder = write_triplets(tmp_path, "abcde")
    np.save(folder / "judge/a.npy", np.array([1.5]))  # above 1
    (folder / "judge/b.npy").write_bytes(b"nothing")
    save(folder / "p0/c.png", size=(20, 21))
    (folder / "ref/d.png").write_bytes(b"")
    source = prepared(Triplets(str(folder)))
    (folder / "judge/e.npy").unlink()

    reasons = [r"a\.npy: it holds 1\.5", r"b\.npy", "c: .* have the shapes", r"d\.png", r"e\.npy"]
    for index, reason in enumerate(reasons):
        with pytest.raises(UnreadableImage, match=reason):
            source.read(index)
