"""Shards: webdataset's tars are read, broken ones are named, and only images are opened."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import webdataset
import yaml
from jsonargparse import ArgumentParser
from PIL import Image
from torch.utils.data import DataLoader

from datamodules.shards import index as shard_index
from datamodules.shards import reader as shard_reader
from datamodules.shards.index import (
    build_index,
    load_index,
    save_index,
)
from datamodules.shards.shards import Shards
from datamodules.source import Source
from files.images.decode import UnreadableImage
from tests.datamodules.image_files import pixels, save
from tests.datamodules.image_files import write_tar as write


def image_bytes(folder, seed, extension="png", size=(8, 6)):
    return save(folder / "source" / f"{seed}.{extension}", size, seed).read_bytes()


@pytest.fixture
def two(tmp_path):
    """Two tars of 3 and 2 images."""
    for shard, numbers in enumerate([(0, 1, 2), (3, 4)]):
        members = [(f"k{n}.png", image_bytes(tmp_path, n)) for n in numbers]
        write(tmp_path / f"t-{shard:03d}.tar", members)
    return tmp_path


def prepared(urls, **options):
    source = Shards(urls if isinstance(urls, list) else str(urls), **options)
    source.prepare(2.0)
    return source


def test_reads_by_offset(two):
    source = prepared(two / "t-*.tar")
    assert source.keys == ["k0", "k1", "k2", "k3", "k4"]
    assert source.groups == [3, 2]
    for index in (4, 0, 3, 1, 2):
        np.testing.assert_array_equal(source.read(index)["hr"], pixels(seed=index))


def test_workers_read_the_same(two):
    source = prepared(two / "t-*.tar")
    source.read(0)  # so that a file is open before the fork

    class Images:
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return source.read(index)["hr"]

    loader = DataLoader(Images(), None, num_workers=2, multiprocessing_context="fork")
    for index, hr in enumerate(loader):
        np.testing.assert_array_equal(hr, pixels(seed=index))


@pytest.fixture
def seven(tmp_path):
    """Seven tars of one image."""
    image = image_bytes(tmp_path, 0)
    for number in range(7):
        write(tmp_path / f"t-{number:03d}.tar", [(f"k{number}.png", image)])
    return tmp_path


def tars_open(folder):
    """How many descriptors of this process are of tars of the folder."""
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing
            name = os.readlink(f"/proc/self/fd/{descriptor}")
            found += name.startswith(str(folder)) and name.endswith(".tar")
    return found


def test_few_files_are_open(seven, monkeypatch):
    monkeypatch.setattr(shard_reader, "OPEN_FILES", 5)
    source = prepared(seven / "t-*.tar")
    for index in [*range(5), 0, 5]:
        source.read(index)
    # The least recently used one had to be closed.
    assert [path for path in source._reader._open if path.endswith(("000.tar", "001.tar"))] == [
        str(seven / "t-000.tar")
    ]
    for index in range(len(source.keys)):
        source.read(index)
    assert tars_open(seven) == 5
    del source
    assert tars_open(seven) == 0


# ------------------------------------------------------------------------------------------- index


@pytest.mark.parametrize("change", ["content", "time"])
def test_index_is_made_again(two, change):
    prepared(two / "t-*.tar")
    path, kept = two / "t-000.tar", two / "t-000.tar.idx.json"
    kept.write_text(kept.read_text().replace("k0", "stale"))
    state = path.stat()
    if change == "content":
        write(path, [(f"n{n}.png", image_bytes(two, n)) for n in range(20)])
    os.utime(path, ns=(1, state.st_mtime_ns if change == "content" else 1))
    assert prepared(two / "t-*.tar").keys[0] == ("n0" if change == "content" else "k0")
    assert "stale" not in kept.read_text()


def test_index_of_a_folder_that_cannot_be_written(two, monkeypatch):

    cache, path = two / "cache", two / "t-000.tar"
    save_index = shard_index.save_index

    def refuse(index, place):
        if place.parent == two:
            raise PermissionError("read only")
        save_index(index, place)

    monkeypatch.setattr(shard_index, "save_index", refuse)
    index = load_index(path, cache)
    assert not (two / "t-000.tar.idx.json").exists()
    assert len(list(cache.glob("*-t-000.tar.idx.json"))) == 1
    monkeypatch.setattr(shard_index, "build_index", None)  # fails if it is made again
    assert load_index(path, cache) == index


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("pipe:cat x.tar", "only datamodules.Stream runs commands"),
        ("ftp://host/x.tar", "expected a path, file:, or one of http, .*s3, gs://"),
        ("http://$NOT_THERE/x.tar", "variable NOT_THERE is not set"),
    ],
)
def test_urls_that_are_refused(url, message):
    with pytest.raises(ValueError, match=message):
        prepared(url)


def test_file_urls(two):
    assert prepared(f"file://{two}/t-{{000,001}}.tar").keys[3] == "k3"
    assert prepared(f"file:{two}/t-*.tar").groups == [3, 2]


@pytest.mark.parametrize(
    "at", ["in a header", "after a header", "in an image", "between", "at the end"]
)
def test_truncated_tar(two, at):
    path = two / "t-000.tar"
    index = load_index(path, two / "cache")
    offset, size = index.members[2]["png"][:2]
    end = {
        "in a header": offset - 100,
        "after a header": offset,
        "in an image": offset + size // 2,
        "between": offset - 512,
        "at the end": offset + -(-size // 512) * 512,
    }[at]
    os.truncate(path, end)
    with pytest.raises(ValueError, match=r"shard .*t-000\.tar cannot be read"):
        prepared(path)


def damaged_header(data):
    at = data.index(b"k1.png") + 150
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        damaged_header,
        lambda data: data + bytes(1 << 20) + data,
        gzip.compress,
        lambda data: b"no tar at all\n" * 100,
        lambda data: b"",
    ],
)
def test_tars_that_are_none(two, change):
    path = two / "t-000.tar"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=r"shard .*t-000\.tar cannot be read by offset"):
        prepared(path)


def refused_tars(image):
    """Members, and a word of why they are refused."""
    return [
        ({"a.png": image, "a.PNG": image}, "'a.PNG' .*ending of another member"),
        ({"a.jpg": image, "a.png": image}, "'a': it has several hr members: jpg, png"),
        ({"a.hr.png": image, "a.lr.png": image, "b.hr.png": image}, "1 of 2 samples have no lr"),
        ({"a.cls": b"1", "a.pyd": b"x"}, "none of its 1 samples can be used"),
        ({"../a.png": b"x"}, "leads out of its folder"),
        ({"b/../../a.png": b"x"}, "leads out of its folder"),
        ({"/etc/a.png": b"x"}, "leads out of its folder"),
    ]


@pytest.mark.parametrize("number", range(7))
def test_samples_that_are_refused(two, number):
    members, message = refused_tars(image_bytes(two, 0))[number]
    with pytest.raises(ValueError, match=message):
        prepared(write(two / "d.tar", members))


def test_one_key_in_two_shards(two):
    shutil.copy(two / "t-000.tar", two / "u.tar")
    urls = [f"{two}/t-000.tar", f"{two}/u.tar"]
    with pytest.raises(
        ValueError, match=r"2 samples have the key 'k0' .*t-000.*u\.tar.*shard_in_key"
    ):
        prepared(urls)
    source = prepared(urls, shard_in_key=True)
    assert source.keys == ["t-000/k0", "t-000/k1", "t-000/k2", "u/k0", "u/k1", "u/k2"]


def apart(tmp_path):
    """As ``tar`` packs a folder listed by extension: one member of all samples, then the next.

    The members of a sample are an HR and an LR image, a caption and JSON.
    """
    kinds = {
        "hr.png": lambda n: image_bytes(tmp_path, n),
        "lr.png": lambda n: image_bytes(tmp_path, 100 + n, size=(4, 3)),
        "txt": lambda n: f"number {n}".encode(),
        "json": lambda n: json.dumps({"n": n}).encode(),
    }
    members = [(f"{n}.{kind}", made(n)) for kind, made in kinds.items() for n in range(4)]
    return write(tmp_path / "apart.tar", members)


def test_members_are_joined_wherever_they_lie(tmp_path):
    source = prepared(apart(tmp_path), index_cache=str(tmp_path))
    assert source.keys == ["0", "1", "2", "3"]
    for n in range(4):
        sample = source.read(n)
        np.testing.assert_array_equal(sample["hr"], pixels(seed=n))
        np.testing.assert_array_equal(sample["lr"], pixels((4, 3), 100 + n))
        assert (sample["text"], sample["meta"]["json"]) == (f"number {n}", {"n": n})


def test_samples_without_an_image_are_counted(two, caplog):
    path = write(
        two / "d.tar", [("README.txt", b"x"), ("a.png", image_bytes(two, 0)), ("LICENSE", b"x")]
    )
    assert prepared(path).keys == ["a"]
    assert "left out 1 samples without an image" in caplog.text
    assert "passed over 1 members" in caplog.text


def test_broken_sample_is_named(two):
    image = image_bytes(two, 0)
    members = [("a.png", image[:60]), ("b.png", image), ("b.txt", b"\xff")]
    source = prepared(write(two / "d.tar", members))
    with pytest.raises(UnreadableImage, match=r"d\.tar: a: .*runcated"):
        source.read(0)
    with pytest.raises(UnreadableImage, match=r"d\.tar: b: its txt: .*can't decode"):
        source.read(1)


@pytest.mark.parametrize(
    "change", [lambda path: os.utime(path, ns=(1, 1)), lambda path: os.truncate(path, 600)]
)
def test_shard_changed_while_in_use(two, change):
    source = prepared(indexed(two / "t-000.tar"))
    change(two / "t-000.tar")
    with pytest.raises(ValueError, match=r"t-000\.tar was replaced while it was in use"):
        source.read(2)


def indexed(path):
    """A tar as the packer writes it."""
    save_index(build_index(path, examine=True), Path(f"{path}.idx.json"))
    return path


def flip(path, offset):
    """Change a byte in place, without any other change of the file."""
    state = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_changed_bytes_are_not_taken_for_an_image(two):
    """Even if they would decode: a bitmap has no checksums."""
    path = write(
        two / "b.tar", [("a.bmp", image_bytes(two, 0, "bmp")), ("b.png", image_bytes(two, 1))]
    )
    source = prepared(indexed(path))
    flip(path, load_index(path, two).members[0]["bmp"].offset + 100)
    with pytest.raises(UnreadableImage, match=r"b\.tar: a: .*by their checksum") as caught:
        source.read(0)
    assert caught.value.reason == "checksum"
    np.testing.assert_array_equal(source.read(1)["hr"], pixels(seed=1))


def test_sizes_are_those_of_the_images(two):
    rotated = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels((8, 6), 0)).save(rotated, "JPEG", exif=exif)
    members = [("a.png", image_bytes(two, 0)), ("b.jpg", rotated.getvalue()), ("c.png", b"broken")]
    source = prepared(indexed(write(two / "s.tar", members)))
    assert [source.size(index) for index in range(3)] == [
        source.read(0)["hr"].shape[:2],
        source.read(1)["hr"].shape[:2],
        None,
    ]
    assert prepared(two / "t-000.tar").size(0) is None  # a foreign tar


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("progressive", [False, True])
def test_crops_are_those_of_the_whole(two, subsampling, progressive):
    """Decoding ends at the crop's lower edge if the bytes are known to be intact."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels((90, 77), 5))
    image.save(buffer, "JPEG", quality=92, subsampling=subsampling, progressive=progressive)
    members = [("a.jpg", buffer.getvalue()), ("a.txt", b"a cat")]
    source = prepared(indexed(write(two / "w.tar", members)))
    whole = source.read(0)["hr"]
    for top in range(0, 81):
        part = source.read_crop(0, top, 11, 9, 60)
        np.testing.assert_array_equal(part["hr"], whole[top : top + 9, 11:71])
        assert part["text"] == "a cat"


# ------------------------------------------------------------------------------------- own stages


def captioned(sample):
    """A user's stage: the caption is in another member, and one sample is left out."""
    caption = sample["cls"].decode()
    return None if caption == "1" else {**sample, "txt": caption}


SETTINGS = """
class_path: datamodules.Shards
init_args: {urls: %s, index_cache: %s, stages: [tests.datamodules.shards.test_shards.captioned]}
"""


def test_stages_of_ones_own(tmp_path):
    """One line of YAML: each sample has all members, and webdataset's filters work, too."""
    members = [
        (f"k{n}.{suffix}", image_bytes(tmp_path, n) if suffix == "png" else str(n).encode())
        for n in range(3)
        for suffix in ("png", "cls")
    ]
    path = write(tmp_path / "t.tar", members)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=Source)
    settings = SETTINGS % (path, tmp_path)
    source = parser.instantiate_classes(
        parser.parse_object({"source": yaml.safe_load(settings)})
    ).source
    source.prepare(2.0)
    plain = prepared(path, index_cache=str(tmp_path))
    assert source.size(0) is None  # a stage may change the image
    for index in (0, 2):
        sample = source.read(index)
        assert sample["text"] == str(index)
        np.testing.assert_array_equal(sample["hr"], plain.read(index)["hr"])
        crop = source.read_crop(index, 1, 2, 3, 4)
        np.testing.assert_array_equal(crop["hr"], sample["hr"][1:4, 2:6])
    with pytest.raises(UnreadableImage, match="k1: left out by"):
        source.read(1)
    again = pickle.loads(pickle.dumps(source))
    assert again.read(2)["text"] == "2"
    decoding = prepared(path, index_cache=str(tmp_path), stages=[webdataset.decode("rgb8")])
    plain_0 = plain.read(0)["hr"]
    np.testing.assert_array_equal(decoding.read(0)["hr"], plain_0)
    write(tmp_path / "t.tar", members[::-1])
    decoding.prepare(2.0)
    assert list(decoding.keys) == ["k2", "k1", "k0"]
    np.testing.assert_array_equal(decoding.read(2)["hr"], plain_0)
