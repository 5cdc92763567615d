"""Shards, their index and their writer: webdataset's tars are read, broken ones are named."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pickle
import shutil
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import yaml
from jsonargparse import ArgumentParser
from PIL import Image
from torch.utils.data import DataLoader

from datamodules.shards import index as shard_index
from datamodules.shards import reader as shard_reader
from datamodules.shards.index import (
    build_index,
    checksum_of,
    load_index,
)
from datamodules.shards.shards import Shards
from datamodules.shards.writer import write_shard
from datamodules.source import Source
from files.images.decode import UnreadableImage
from tests.datamodules.image_files import encoded, image_bytes, indexed, pixels
from tests.datamodules.image_files import write_tar as write


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two tars of 3 and 2 images."""
    for shard, numbers in enumerate([(0, 1, 2), (3, 4)]):
        members = {f"k{number}.png": image_bytes(number) for number in numbers}
        write(tmp_path / f"t-{shard:03d}.tar", members)
    return tmp_path


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A tar of three images, one with a caption."""
    members = {f"k{number}.png": image_bytes(number) for number in range(3)}
    return write(tmp_path / "t.tar", {**members, "k2.txt": b"two"})


def prepared(urls: Any, **options: Any) -> Shards:
    source = Shards(urls if isinstance(urls, list) else str(urls), **options)
    source.prepare(2.0)
    return source


# ---------------------------------------------------------------------------------------- reading


def test_samples_are_read_by_their_offsets(two):
    source = prepared(two / "t-*.tar")
    assert source.keys == ["k0", "k1", "k2", "k3", "k4"]
    assert source.groups == [3, 2]
    for index in (4, 0, 3, 1, 2):
        np.testing.assert_array_equal(source.read(index)["hr"], pixels(seed=index))


def test_urls_of_files(two):
    assert prepared(f"file://{two}/t-{{000,001}}.tar").keys[3] == "k3"
    assert prepared(f"file:{two}/t-*.tar").groups == [3, 2]


def test_workers_read_from_files_that_were_open_before_them(two):
    source = prepared(two / "t-*.tar")
    source.read(0)

    class Images:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> np.ndarray:
            return source.read(index)["hr"]

    loader = DataLoader(Images(), None, num_workers=2, multiprocessing_context="fork")
    for index, hr in enumerate(loader):
        np.testing.assert_array_equal(hr, pixels(seed=index))


def tars_open(folder: Path) -> int:
    """How many descriptors of this process are of tars of the folder."""
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing
            name = os.readlink(f"/proc/self/fd/{descriptor}")
            count += name.startswith(str(folder)) and name.endswith(".tar")
    return count


def test_few_files_are_open_and_the_least_recently_used_one_is_closed(tmp_path, monkeypatch):
    for number in range(7):
        write(tmp_path / f"{number}.tar", {f"k{number}.png": image_bytes(0)})
    monkeypatch.setattr(shard_reader, "OPEN_FILES", 5)
    source = prepared(tmp_path / "*.tar")
    for index in [0, 1, 2, 3, 4, 0, 5]:
        source.read(index)
    assert f"{tmp_path}/0.tar" in source._reader._open
    assert f"{tmp_path}/1.tar" not in source._reader._open
    assert tars_open(tmp_path) == 5
    del source
    assert tars_open(tmp_path) == 0


def test_members_are_joined_wherever_they_lie(tmp_path):
    """As ``tar`` packs a folder listed by extension: one member of all samples, then the next."""
    members = {f"{n}.hr.png": image_bytes(n) for n in range(4)}
    members |= {f"{n}.lr.png": image_bytes(100 + n, (4, 3)) for n in range(4)}
    members |= {f"{n}.txt": f"number {n}".encode() for n in range(4)}
    members |= {f"{n}.json": json.dumps({"n": n}).encode() for n in range(4)}
    source = prepared(write(tmp_path / "apart.tar", members))
    assert source.keys == ["0", "1", "2", "3"]
    for n in range(4):
        sample = source.read(n)
        np.testing.assert_array_equal(sample["hr"], pixels(seed=n))
        np.testing.assert_array_equal(sample["lr"], pixels((4, 3), 100 + n))
        assert sample["text"] == f"number {n}"
        assert sample["meta"]["json"] == {"n": n}


def test_sizes_are_those_of_the_images(two):
    turned = Image.Exif()
    turned[0x0112] = 6
    jpeg = encoded(pixels((8, 6)), "JPEG", exif=turned)
    members = {"a.png": image_bytes(0), "b.jpg": jpeg, "c.png": b"broken"}
    source = prepared(indexed(write(two / "s.tar", members)))
    for index in (0, 1):
        assert source.size(index) == source.read(index)["hr"].shape[:2]
    assert source.size(2) is None
    assert prepared(two / "t-000.tar").size(0) is None  # a foreign tar


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("progressive", [False, True])
def test_crops_are_those_of_the_whole(two, subsampling, progressive):
    """Decoding ends at the crop's lower edge if the bytes are known to be intact."""
    jpeg = encoded(
        pixels((90, 77), 5),
        "JPEG",
        quality=92,
        subsampling=subsampling,
        progressive=progressive,
    )
    source = prepared(indexed(write(two / "w.tar", {"a.jpg": jpeg, "a.txt": b"a cat"})))
    whole = source.read(0)["hr"]
    for top in range(81):
        part = source.read_crop(0, top, 11, 9, 60)
        np.testing.assert_array_equal(part["hr"], whole[top : top + 9, 11:71])
        assert part["text"] == "a cat"


def captioned(sample: Any) -> Any:
    """A user's stage: the caption is in another member, and one sample is left out."""
    caption = sample["cls"].decode()
    return None if caption == "1" else {**sample, "txt": caption}


SETTINGS = """
class_path: datamodules.Shards
init_args: {urls: %s, stages: [tests.datamodules.shards.test_shards.captioned]}
"""


def test_stages_of_ones_own(tmp_path):
    """One line of YAML: each sample has all members."""
    members = {}
    for number in range(3):
        members[f"k{number}.png"] = image_bytes(number)
        members[f"k{number}.cls"] = str(number).encode()
    path = write(tmp_path / "t.tar", members)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=Source)
    settings = parser.parse_object({"source": yaml.safe_load(SETTINGS % path)})
    source = parser.instantiate_classes(settings).source
    source.prepare(2.0)

    assert source.size(0) is None  # a stage may change the image
    for index in (0, 2):
        sample = source.read(index)
        assert sample["text"] == str(index)
        np.testing.assert_array_equal(sample["hr"], pixels(seed=index))
        crop = source.read_crop(index, 1, 2, 3, 4)
        np.testing.assert_array_equal(crop["hr"], sample["hr"][1:4, 2:6])
    with pytest.raises(UnreadableImage, match="k1: left out by"):
        source.read(1)
    assert pickle.loads(pickle.dumps(source)).read(2)["text"] == "2"


# ------------------------------------------------------------------------------------ broken tars


@pytest.mark.parametrize(
    "at", ["in a header", "after a header", "in an image", "between", "at the end"]
)
def test_a_truncated_tar_is_refused(two, at):
    path = two / "t-000.tar"
    offset, size = load_index(path, two / "cache").members[2]["png"][:2]
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


def test_a_tar_may_end_in_a_single_block_of_zeros(two):
    path = two / "t-000.tar"
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content + bytes(-len(content) % 512) + bytes(512))
    assert prepared(path).keys == ["k0", "k1", "k2"]


def with_a_damaged_header(data: bytes) -> bytes:
    place = data.index(b"k1.png") + 150
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        with_a_damaged_header,
        lambda data: data + bytes(1 << 20) + data,
        gzip.compress,
        lambda data: b"no tar at all\n" * 100,
        lambda data: b"",
    ],
)
def test_a_file_that_is_no_tar_is_refused(two, change):
    path = two / "t-000.tar"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=r"shard .*t-000\.tar cannot be read by offset"):
        prepared(path)


IMAGE = image_bytes(0)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": IMAGE, "a.PNG": IMAGE}, "'a.PNG' .*ending of another member"),
        ({"a.cls": b"1", "a.pyd": b"x"}, "none of its 1 samples can be used"),
        ({"../a.png": b"x"}, "leads out of its folder"),
        ({"b/../../a.png": b"x"}, "leads out of its folder"),
        ({"/etc/a.png": b"x"}, "leads out of its folder"),
    ],
)
def test_members_that_are_refused(tmp_path, members, message):
    with pytest.raises(ValueError, match=message):
        prepared(write(tmp_path / "d.tar", members))


def test_keys_of_two_shards_differ_or_have_the_shard_in_them(two):
    shutil.copy(two / "t-000.tar", two / "u.tar")
    urls = [f"{two}/t-000.tar", f"{two}/u.tar"]
    with pytest.raises(ValueError, match=r"the key 'k0' .*t-000.*u\.tar.*shard_in_key"):
        prepared(urls)
    source = prepared(urls, shard_in_key=True)
    assert source.keys == ["t-000/k0", "t-000/k1", "t-000/k2", "u/k0", "u/k1", "u/k2"]


@pytest.mark.parametrize(
    "change", [lambda path: os.utime(path, ns=(1, 1)), lambda path: os.truncate(path, 600)]
)
def test_a_shard_that_changes_while_in_use_is_an_error(two, change):
    source = prepared(indexed(two / "t-000.tar"))
    change(two / "t-000.tar")
    with pytest.raises(ValueError, match=r"t-000\.tar was replaced while it was in use"):
        source.read(2)


def flip(path: Path, offset: int) -> None:
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
    members = {"a.bmp": image_bytes(0, kind="BMP"), "b.png": image_bytes(1)}
    path = indexed(write(two / "b.tar", members))
    source = prepared(path)
    flip(path, load_index(path, two).members[0]["bmp"].offset + 100)
    with pytest.raises(UnreadableImage, match=r"b\.tar: a: .*by their checksum") as caught:
        source.read(0)
    assert caught.value.reason == "checksum"
    np.testing.assert_array_equal(source.read(1)["hr"], pixels(seed=1))


# ------------------------------------------------------------------------------------------ index


def test_an_index_has_checksums_places_and_sizes(shard):
    index = build_index(shard, examine=True)
    data = shard.read_bytes()
    assert index.checksum == checksum_of(shard) == xxhash.xxh3_128_hexdigest(data)
    for members in index.members:
        for member in members.values():
            content = data[member.offset : member.offset + member.size]
            assert member.checksum == xxhash.xxh3_64_intdigest(content)
    assert index.members[0]["png"][3:] == pixels().shape[:2]
    assert index.members[2]["txt"][3:] == (0, 0)


@pytest.mark.parametrize("change", ["content", "time"])
def test_the_index_of_a_tar_that_changed_is_made_again(two, change):
    prepared(two / "t-*.tar")
    path = two / "t-000.tar"
    index = two / "t-000.tar.idx.json"
    index.write_text(index.read_text().replace("k0", "stale"))
    time = path.stat().st_mtime_ns
    if change == "content":
        write(path, {f"n{number}.png": image_bytes(number) for number in range(20)})
    os.utime(path, ns=(1, time if change == "content" else 1))
    assert prepared(two / "t-*.tar").keys[0] == ("n0" if change == "content" else "k0")
    assert "stale" not in index.read_text()


def test_the_index_of_another_tar_of_the_same_size_is_made_again(shard, tmp_path, caplog):
    indexed(shard)
    members = {f"j{number}.png": image_bytes(number) for number in range(3)}
    write(shard, {**members, "j2.txt": b"two"})
    os.utime(shard, ns=(5, 5))
    assert load_index(shard, tmp_path / "cache").keys == ["j0", "j1", "j2"]
    assert "is that of another tar, and is made again" in caplog.text


def test_an_index_that_travelled_finds_damage(shard, tmp_path):
    """By its checksums, which a new one would not have."""
    indexed(shard)
    made = load_index(shard, tmp_path / "cache")
    data = bytearray(shard.read_bytes())
    data[made.members[0]["png"].offset + 40] ^= 255
    shard.write_bytes(data)
    os.utime(shard, ns=(5, 5))
    assert load_index(shard, tmp_path / "cache") == replace(made, mtime_ns=5)


def test_the_index_of_a_folder_that_cannot_be_written_is_in_the_cache(two, monkeypatch):
    cache = two / "cache"
    path = two / "t-000.tar"
    save = shard_index.save_index

    def refuse(index: Any, place: Path) -> None:
        if place.parent == two:
            raise PermissionError("read only")
        save(index, place)

    monkeypatch.setattr(shard_index, "save_index", refuse)
    index = load_index(path, cache)
    assert not (two / "t-000.tar.idx.json").exists()
    monkeypatch.setattr(shard_index, "build_index", None)  # fails if it is made again
    assert load_index(path, cache) == index


@pytest.mark.parametrize(
    "lie",
    [
        {"png": ["a", 10]},
        {"png": [float("nan"), 10]},
        {"png": [512, 10, None, 1, 1, 1]},
        {"png": [512, 10, "xyz"]},
        7,
    ],
)
def test_an_index_that_lies_is_made_again(shard, tmp_path, lie, caplog):
    indexed(shard)
    place = tmp_path / "t.tar.idx.json"
    content = json.loads(place.read_text())
    content["samples"][1][1] = lie
    place.write_text(json.dumps(content))
    assert load_index(shard, tmp_path).members == build_index(shard).members
    assert "is damaged" in caplog.text


# ------------------------------------------------------------------------------ tars that do harm


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.type = kind
    return info.tobuf(tarfile.GNU_FORMAT)


def attributes(*records: bytes) -> bytes:
    text = b"".join(b"%d %s\n" % (len(r) + len(str(len(r) + 3)) + 2, r) for r in records)
    return header("pax", len(text), tarfile.XHDTYPE) + text.ljust(512, b"\0")


HOLES = attributes(b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.name=k.png")
HARM = {
    "a name of 8 GB": header("././@LongLink", 8**11 - 1, tarfile.GNUTYPE_LONGNAME),
    "attributes of 8 GB": header("pax", 8**11 - 1, tarfile.XHDTYPE),
    "a member of 2**62 bytes": header("k.png", 2**62),
    "a negative size": header("k.png", -1024),
    "a negative size of a name": header("././@LongLink", -512, tarfile.GNUTYPE_LONGNAME),
    "a size in the attributes": attributes(b"size=-5000") + header("k.png"),
    "endless holes": HOLES + header("k.png", 512) + b"99999999\n".ljust(512, b"1"),
    "names of names": header("././@LongLink", 5, tarfile.GNUTYPE_LONGNAME) * 5000,
    "attributes of attributes": attributes(b"path=k.png") * 2000,
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_tars_that_do_harm_are_refused_with_little_memory(tmp_path, harm):
    path = tmp_path / "h.tar"
    path.write_bytes(harm + bytes(1024))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"^shard .*h\.tar "):
            build_index(path, examine=True)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_refused(shard, kind):
    info = tarfile.TarInfo("k9.png")
    info.type = kind
    info.linkname = "k0.png"
    with tarfile.open(shard, "a") as tar:
        tar.addfile(info)
    with pytest.raises(ValueError, match=r"'k9\.png' .*is a link to 'k0\.png'.*--dereference"):
        build_index(shard)


# ----------------------------------------------------------------------------------------- writer


def test_the_same_samples_give_the_same_bytes(tmp_path, monkeypatch):
    """At any time and by any user. Members are sorted, and none is left out."""
    samples = {"a/1": {"txt": b"1", "hr.png": b"x" * 700, "_x": b"2"}, "ä" * 120: {"json": b"{}"}}
    turned = {key: dict(reversed(members.items())) for key, members in samples.items()}
    monkeypatch.setattr("time.time", lambda: 1e9)
    write_shard(tmp_path / "one.tar", samples.items())
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_shard(tmp_path / "two.tar", turned.items())

    written = (tmp_path / "one.tar").read_bytes()
    assert written == (tmp_path / "two.tar").read_bytes()
    assert xxhash.xxh3_64_hexdigest(written) == "35d016bb724caf01"
    with tarfile.open(tmp_path / "one.tar") as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    assert names == ["a/1._x", "a/1.hr.png", "a/1.txt", "ä" * 120 + ".json"]
    for member in members:
        assert member.mtime == member.uid == member.gid == 0
        assert member.uname == member.gname == ""
        assert member.mode == 0o444


def test_nothing_has_a_shards_name_before_it_is_whole(tmp_path):
    """Its index does, so that a kill between the two leaves no shard without checksums."""
    path = tmp_path / "s-000000.tar"

    def stop(index: Any) -> None:
        assert not path.exists()
        raise OSError("stopped")

    with pytest.raises(OSError, match="stopped"):
        write_shard(path, [("a", {"txt": b"1"})], stop)
    assert [found.name for found in tmp_path.iterdir()] == ["s-000000.tar.idx.json"]


def test_a_broken_input_of_the_writer_leaves_nothing(tmp_path):
    def samples() -> Any:
        yield "a", {"txt": b"1" * 10**6}
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_shard(tmp_path / "s-000000.tar", samples())
    assert list(tmp_path.iterdir()) == []
