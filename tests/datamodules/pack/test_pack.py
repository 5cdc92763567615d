"""The packer: its inputs, and its shards, which are plain WebDataset tars."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

from datamodules.pack import __main__ as pack
from datamodules.pack.inputs import find_inputs
from datamodules.shards.shards import Shards
from files.images.decode import read_image
from tests.datamodules.image_files import encoded, pixels, save, write_tar

NAMES = ["a.JPG", "b.png", "deep/c.png", "deep/d.webp", "e.png"]
IMAGE = encoded(pixels())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        save(tmp_path / "images" / name, (16, 12), seed=number)
    return tmp_path / "images"


def source(out: Path) -> Shards:
    shards = Shards(str(out / "*.tar"))
    shards.prepare(2.0)
    return shards


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as tar:
        return {name: tar.extractfile(name).read() for name in tar.getnames()}


def keys(path: Path) -> list[str]:
    return [entry.key for entry in find_inputs(str(path)).entries]


# ----------------------------------------------------------------------------------------- shards


def test_files_keep_their_bytes_and_order(images, tmp_path):
    out = tmp_path / "out"
    assert pack.main([str(images), str(out), "--images-per-shard", "2"]) == 0

    packed = source(out)
    assert packed.keys == ["a", "b", "deep/c", "deep/d", "e"]
    assert packed.groups == [2, 2, 1]
    for index, name in enumerate(NAMES):
        np.testing.assert_array_equal(packed.read(index)["hr"], read_image(images / name).rgb)
    assert sorted(path.name for path in out.glob("*.tar")) == [
        "shard-000000.tar",
        "shard-000001.tar",
        "shard-000002.tar",
    ]
    first = members(out / "shard-000000.tar")
    assert first == {
        "a.jpg": (images / "a.JPG").read_bytes(),
        "b.png": (images / "b.png").read_bytes(),
    }


@pytest.mark.parametrize("options", [[], ["--crop", "8", "--encode", "webp"]])
def test_stock_readers_read_the_shards(tmp_path, options):
    """``WebDataset(...).decode("pil")`` gives images, captions and metadata."""
    folder = tmp_path / "images"
    for number in range(3):
        save(folder / f"{number}.png", (8, 8), seed=number)
        (folder / f"{number}.txt").write_text(f"number {number}")
        (folder / f"{number}.json").write_text(json.dumps({"number": number}))
    arguments = [str(folder), str(tmp_path / "out"), "--images-per-shard", "2", *options]
    assert pack.main(arguments) == 0

    shards = str(tmp_path / "out" / "shard-{000000..000001}.tar")
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))

    suffix = "webp" if options else "png"
    assert len(samples) == 3
    for number, sample in enumerate(samples):
        assert sample["__key__"] == (f"{number}_s001" if options else str(number))
        np.testing.assert_array_equal(np.asarray(sample[suffix]), pixels((8, 8), number))
        assert sample["txt"] == f"number {number}"
        assert sample["json"] == {"number": number}


def test_refused_images_are_listed(images, tmp_path, caplog):
    for number in range(7):
        (images / f"empty{number}.png").touch()
    (images / "text.jpg").write_text("this is no image")
    assert pack.main([str(images), str(tmp_path / "out")]) == 1
    assert "refused by reason: 7 empty, 1 not an image; " in caplog.text
    record = json.loads((tmp_path / "out" / "shard-000000.json").read_text())
    assert record["samples"] == 5
    assert len(record["refused"]) == 8
    assert record["refused"][0] == {
        "key": "empty0",
        "reason": "empty",
        "message": f"{images / 'empty0.png'}: the file is empty",
    }


@pytest.mark.parametrize("name", ["shard-000000.tar", "shard.json"])
def test_files_of_others_stay(images, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"shard\.json"):
        pack.main([str(images), str(out)])
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_bytes() == b"mine"


def test_sources_are_never_overwritten(tmp_path):
    old = write_tar(tmp_path / "shard-000000.tar", {"a.png": IMAGE})
    before = old.read_bytes()
    with pytest.raises(ValueError, match="would be replaced"):
        pack.main([str(old), str(tmp_path)])
    assert old.read_bytes() == before


# ----------------------------------------------------------------------------------------- inputs


def test_a_list_keeps_its_order(tmp_path):
    for name in ("z.png", "a/b.png", "a/c.png"):
        save(tmp_path / name)
    text = "\ufeff# of the best\nz.png\n\n  a/c.png  \r\na/../a/b.png\nz.png\n"
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    assert keys(tmp_path / "list.txt") == ["z", "a/c", "a/b"]


def test_lists_of_basicsr_have_sizes_after_the_names(tmp_path):
    for name in ("0001_s001.png", "x/b, c (1).png", "d (2,3).png"):
        save(tmp_path / name)
    text = "0001_s001.png (480,480,3)\nx/b, c (1).png (5, 7, 3) 1\nd (2,3).png\n"
    (tmp_path / "meta_info.txt").write_text(text)
    assert keys(tmp_path / "meta_info.txt") == ["0001_s001", "x/b, c (1)", "d (2,3)"]


def test_names_that_can_be_no_keys_are_refused(tmp_path, caplog):
    for name in (b"a\nb.png", b"\xff\xfe.png", b"__meta__/a.png", b"good.png"):
        path = os.fsencode(tmp_path) + b"/in/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(IMAGE)
    assert pack.main([str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    assert "refused by reason: 3 unsafe name" in caplog.text


def test_dots_in_names_become_underscores(tmp_path):
    save(tmp_path / "v1.0" / "2020.01.png")
    assert pack.main([str(tmp_path), str(tmp_path / "out")]) == 0
    assert source(tmp_path / "out").keys == ["v1.0/2020_01"]

    save(tmp_path / "v1.0" / "2020_01.png")
    with pytest.raises(ValueError, match=r"two images would have the key 'v1\.0/2020_01'"):
        pack.main([str(tmp_path), str(tmp_path / "other")])


def test_tars_keep_keys_and_members(tmp_path):
    old = {"b.png": IMAGE, "b.cls": b"3", "b.json": b"{}", "a/x.hr.png": IMAGE}
    write_tar(tmp_path / "old.tar", old)
    assert pack.main([str(tmp_path / "old.tar"), str(tmp_path / "out")]) == 0
    assert members(tmp_path / "out" / "shard-000000.tar") == old


def test_samples_whose_members_lie_apart_are_joined(tmp_path):
    kinds = {"lr.png": encoded(pixels((4, 3))), "txt": b"x", "cls": b"3"}
    apart = {f"{number}.hr.png": IMAGE + bytes(number) for number in range(3)}
    for kind, data in kinds.items():
        apart |= {f"{number}.{kind}": data for number in range(3)}
    write_tar(tmp_path / "old.tar", apart)
    assert pack.main([str(tmp_path / "old.tar"), str(tmp_path / "out"), "--scale", "2"]) == 0
    packed = members(tmp_path / "out" / "shard-000000.tar")
    assert packed == apart
    assert [name[0] for name in packed] == list("000011112222")
