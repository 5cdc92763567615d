"""The packer: its inputs, and its shards, which are plain WebDataset tars."""

import json
import os
import re
import tarfile

import numpy as np
import pytest
import webdataset
from numpy.testing import assert_array_equal

from datamodules.pack.command import main as pack
from datamodules.pack.inputs import find_inputs
from datamodules.shards.shards import Shards
from files.images.decode import read_image
from tests.datamodules.image_files import encoded, pixels, save, write_tar

NAMES = ["a.JPG", "b.png", "deep/c.png", "deep/d.webp", "e.png"]


@pytest.fixture
def images(tmp_path):
    for number, name in enumerate(NAMES):
        save(tmp_path / "images" / name, (16, 12), seed=number)
    return tmp_path / "images"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def members(shard):
    with tarfile.open(shard) as tar:
        return {name: tar.extractfile(name).read() for name in tar.getnames()}


# ----------------------------------------------------------------------------------------- shards


def test_files_keep_their_bytes_and_order(images, out):
    assert pack([str(images), str(out), "--images-per-shard", "2"]) == 0
    packed = Shards(str(out / "shard-{000000..000002}.tar"))
    packed.prepare(scale=2.0)

    assert packed.keys == ["a", "b", "deep/c", "deep/d", "e"]
    assert packed.groups == [2, 2, 1]
    for index, name in enumerate(NAMES):
        assert_array_equal(packed.read(index)["hr"], read_image(images / name).rgb)
    assert members(out / "shard-000000.tar") == {
        "a.jpg": (images / "a.JPG").read_bytes(),
        "b.png": (images / "b.png").read_bytes(),
    }


def test_stock_readers_read_the_shards(tmp_path, out):
    """``WebDataset(...).decode("pil")`` gives images, captions and metadata."""
    save(tmp_path / "images/cat.png", (8, 8))
    (tmp_path / "images/cat.txt").write_text("a cat")
    (tmp_path / "images/cat.json").write_text('{"number": 1}')

    assert pack([f"{tmp_path}/images", str(out), "--crop", "8", "--encode", "webp"]) == 0
    (sample,) = webdataset.WebDataset(f"{out}/shard-000000.tar", shardshuffle=False).decode("pil")

    assert sample["__key__"] == "cat_s001"  # the first square, named as by BasicSR
    assert_array_equal(np.asarray(sample["webp"]), pixels((8, 8)))
    assert sample["txt"] == "a cat"
    assert sample["json"] == {"number": 1}


def test_refused_images_are_listed(images, out, caplog):
    for number in range(7):
        (images / f"empty{number}.png").touch()
    (images / "text.jpg").write_text("this is no image")

    assert pack([str(images), str(out)]) == 1

    assert "refused by reason: 7 empty, 1 not an image; " in caplog.text
    record = json.loads((out / "shard-000000.json").read_text())
    assert record["samples"] == 5  # NAMES
    assert len(record["refused"]) == 8
    assert record["refused"][0] == {
        "key": "empty0",
        "reason": "empty",
        "message": f"{images / 'empty0.png'}: the file is empty",
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shard-000000.tar", "is there, but no shard.json that says how it was made"),
        ("shard.json", "shard.json is not of this program"),
    ],
)
def test_files_of_others_stay(images, out, name, message):
    out.mkdir()
    (out / name).write_bytes(b"mine")
    with pytest.raises(ValueError, match=re.escape(message)):
        pack([str(images), str(out)])
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_bytes() == b"mine"


def test_sources_are_never_overwritten(tmp_path):
    old = write_tar(tmp_path / "shard-000000.tar", {"a.png": encoded(pixels())})
    before = old.read_bytes()
    with pytest.raises(ValueError, match="would be replaced"):
        pack([str(old), str(tmp_path)])
    assert old.read_bytes() == before


# ----------------------------------------------------------------------------------------- inputs


LIST = """\ufeff# of the best
z.png

  a/c.png  \r
a/../a/b.png
z.png
0001_s001.png (480,480,3)
x/b, c (1).png (5, 7, 3) 1
d (2,3).png
"""


def test_the_images_of_a_list_are_found_in_its_order(tmp_path):
    """BasicSR's lists have sizes after the names, which are dropped.

    So are a byte order mark, comments, empty lines, spaces at the ends, and a name's second place.
    """
    names = ["z", "a/c", "a/b", "0001_s001", "x/b, c (1)", "d (2,3)"]
    for name in names:
        save(tmp_path / f"{name}.png")
    (tmp_path / "list.txt").write_text(LIST, encoding="utf-8")
    entries = find_inputs(str(tmp_path / "list.txt")).entries
    assert [entry.key for entry in entries] == names


def test_names_that_can_be_no_keys_are_refused(images, out, caplog):
    # A line break, no UTF-8, and what webdataset takes for metadata.
    for name in (b"a\nb.png", b"\xff\xfe.png", b"__meta__/a.png"):
        save(images / os.fsdecode(name))
    assert pack([str(images), str(out)]) == 1
    assert "refused by reason: 3 unsafe name" in caplog.text


def test_dots_in_names_become_underscores_in_keys(images):
    """To webdataset, a key ends at the first dot of the name."""
    save(images / "v1.0" / "2020.01.png")
    assert find_inputs(str(images)).entries[-1].key == "v1.0/2020_01"

    save(images / "v1.0" / "2020_01.png")
    with pytest.raises(ValueError, match=r"two images would have the key 'v1\.0/2020_01'"):
        find_inputs(str(images))


def test_samples_of_a_tar_keep_their_members_and_are_joined(tmp_path, out):
    image = encoded(pixels())
    small = encoded(pixels((4, 3)))
    apart = {"b.hr.png": image, "a/x.hr.png": image + b"longer", "b.lr.png": small}
    apart |= {"a/x.lr.png": small, "b.cls": b"3", "a/x.cls": b"4", "b.json": b"{}"}
    old = write_tar(tmp_path / "old.tar", apart)

    assert pack([str(old), str(out), "--scale", "2"]) == 0

    packed = members(out / "shard-000000.tar")
    assert packed == apart
    # Members of a sample lie side by side, samples in the order of their first members.
    assert [name.partition(".")[0] for name in packed] == ["b"] * 4 + ["a/x"] * 3
