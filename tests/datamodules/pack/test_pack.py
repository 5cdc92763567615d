"""The packer: its shards are plain WebDataset tars, complete or absent."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest
import webdataset

from datamodules.pack import __main__ as pack
from datamodules.shards.shards import Shards
from files.images.decode import read_image
from tests.datamodules.image_files import pixels, save


@pytest.fixture
def images(tmp_path):
    for number, name in enumerate(["b.png", "a.JPG", "deep/c.png", "deep/d.webp", "e.png"]):
        save(tmp_path / "images" / name, (16, 12), seed=number)
    return tmp_path / "images"


def source(out):
    found = Shards(str(out / "*.tar"))
    found.prepare(2.0)
    return found


def names(shard):
    with tarfile.open(shard) as tar:
        return tar.getnames()


def test_keeps_bytes_and_order(images, tmp_path):
    assert pack.main([str(images), str(tmp_path / "out"), "--images-per-shard", "2"]) == 0
    shards = sorted((tmp_path / "out").glob("*.tar"))
    assert [s.name for s in shards] == [f"shard-00000{n}.tar" for n in range(3)]
    assert names(shards[0]) == ["a.jpg", "b.png"]
    packed = source(tmp_path / "out")
    assert packed.keys == ["a", "b", "deep/c", "deep/d", "e"]
    assert packed.groups == [2, 2, 1]
    for index, name in enumerate(["a.JPG", "b.png", "deep/c.png", "deep/d.webp", "e.png"]):
        np.testing.assert_array_equal(packed.read(index)["hr"], read_image(images / name).rgb)
    with tarfile.open(shards[0]) as tar:
        assert tar.extractfile("a.jpg").read() == (images / "a.JPG").read_bytes()


@pytest.mark.parametrize("options", [[], ["--crop", "8", "--encode", "webp"]])
def test_stock_readers_read_them(tmp_path, options):
    """``WebDataset(...).decode("pil")`` gives images, captions and metadata."""
    for number in range(3):
        save(tmp_path / "images" / f"{number}.png", (8, 8), seed=number)
        (tmp_path / "images" / f"{number}.txt").write_text(f"number {number}")
        (tmp_path / "images" / f"{number}.json").write_text(json.dumps({"number": number}))
    arguments = [str(tmp_path / "images"), str(tmp_path / "out"), *options]
    assert pack.main([*arguments, "--images-per-shard", "2"]) == 0
    shards = str(tmp_path / "out" / "shard-{000000..000001}.tar")
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    suffix = "webp" if options else "png"
    for number, sample in enumerate(samples):
        assert sample["__key__"] == (f"{number}_s001" if options else str(number))
        np.testing.assert_array_equal(np.asarray(sample[suffix]), pixels((8, 8), number))
        assert (sample["txt"], sample["json"]) == (f"number {number}", {"number": number})
    assert len(samples) == 3


def test_refused_images_are_listed(images, tmp_path, caplog):
    for number in range(7):
        (images / f"empty{number}.png").touch()
    (images / "text.jpg").write_text("this is no image")
    assert pack.main([str(images), str(tmp_path / "out")]) == 1
    assert caplog.text.count("refused (") == 5
    assert "refused by reason: 7 empty, 1 not an image; " in caplog.text
    record = json.loads((tmp_path / "out" / "shard-000000.json").read_text())
    assert (record["inputs"], record["samples"], len(record["refused"])) == (5, 5, 8)
    assert record["refused"][0] == {
        "key": "empty0",
        "reason": "empty",
        "message": f"{images / 'empty0.png'}: the file is empty",
    }


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("shard-000000.tar", "but no shard.json that says how it was made"),
        ("shard.json", "shard.json is not of this program"),
    ],
)
def test_files_of_others_stay(images, tmp_path, name, sentence):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"mine")
    with pytest.raises(ValueError, match=sentence):
        pack.main([str(images), str(out)])
    assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [(name, b"mine")]


def test_dots_in_names(tmp_path, caplog):
    save(tmp_path / "v1.0" / "2020.01.png")
    assert pack.main([str(tmp_path), str(tmp_path / "out")]) == 0
    assert source(tmp_path / "out").keys == ["v1.0/2020_01"]
    assert "1 keys had dots" in caplog.text
    save(tmp_path / "v1.0" / "2020_01.png")
    with pytest.raises(ValueError, match=r"two images would have the key 'v1\.0/2020_01'"):
        pack.main([str(tmp_path), str(tmp_path / "other")])
