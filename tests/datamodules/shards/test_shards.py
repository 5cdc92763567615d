"""Shards: webdataset's tars are read, broken ones are named, and only images are opened."""

from __future__ import annotations

import contextlib
import errno
import gc
import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
import threading
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import webdataset
import yaml
from commands.arguments.ranges import register_ranges
from jsonargparse import ArgumentParser
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.speed.streaming.start import own
from datamodules.files.decode import UnreadableImage, read_image
from datamodules.shards import index as shard_index
from datamodules.shards import reader as shard_reader
from datamodules.shards import shards
from datamodules.shards import table as shard_table
from datamodules.shards.index import (
    Member,
    ShardIndex,
    build_index,
    checksum_of,
    index_places,
    load_index,
    save_index,
    split_name,
)
from datamodules.shards.shards import Shards
from datamodules.source import Source
from tests.datamodules.image_files import pixels, save
from tests.datamodules.profiles import rgb_profile


def image_bytes(folder, seed, extension="png", size=(8, 6)):
    return save(folder / "source" / f"{seed}.{extension}", size, seed).read_bytes()


def write(path, members):
    """A tar of (name, bytes)."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def two(tmp_path):
    """Two tars of 3 and 2 images."""
    for shard, numbers in enumerate([(0, 1, 2), (3, 4)]):
        members = [(f"k{n}.png", image_bytes(tmp_path, n)) for n in numbers]
        write(tmp_path / f"t-{shard:03d}.tar", members)
    return tmp_path


def prepared(urls, **options):
    source = Shards(urls if isinstance(urls, list) else str(urls), **{"retries": 0, **options})
    source.prepare(2.0)
    return source


def test_reads_by_offset(two):
    source = prepared(two / "t-*.tar")
    assert source.keys == ["k0", "k1", "k2", "k3", "k4"]
    assert source.groups == [3, 2]
    for index in (4, 0, 3, 1, 2):
        np.testing.assert_array_equal(source.read(index)["hr"], pixels(seed=index))


class Ranks:
    """``torch.distributed`` with threads as processes, each named by its rank."""

    def __init__(self, count):
        self.count = count

    def is_available(self):
        return True

    is_initialized = is_available

    def get_world_size(self):
        return self.count

    def get_rank(self):
        return int(threading.current_thread().name)


def test_processes_share_the_comparison_after_a_copy(tmp_path, monkeypatch):
    """All in step, the worst case: each compares shards that no other has compared."""
    count, ranks = 12, 3
    for number in range(count):
        path = write(tmp_path / f"t-{number:02d}.tar", [(f"k{number:02d}.png", b"x")])
        os.utime(indexed(path), ns=(number, number))  # as a copy without times
    compared, together = [], threading.Barrier(ranks)

    def load(shard, folder):
        together.wait(120)
        return load_index(shard, folder)

    def checksum(path):
        compared.append((threading.current_thread().name, path))
        return checksum_of(path)

    monkeypatch.setattr(shards, "dist", Ranks(ranks))
    monkeypatch.setattr(shards, "load_index", load)
    monkeypatch.setattr(shard_index, "checksum_of", checksum)
    sources = [Shards(f"{tmp_path}/t-*.tar") for _ in range(ranks)]
    threads = [
        threading.Thread(target=source.prepare, args=(2.0,), name=str(rank))
        for rank, source in enumerate(sources)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for source in sources:
        assert source.keys == [f"k{number:02d}" for number in range(count)]
        assert [Path(tar.path).name for tar in source._tars] == [
            f"t-{number:02d}.tar" for number in range(count)
        ]
    assert {path for _, path in compared} == set(tmp_path.glob("*.tar"))
    shares = Counter(rank for rank, _ in compared)
    assert len(compared) <= count + ranks
    assert max(shares.values()) <= count / 2


def test_alone_shards_are_looked_at_in_their_order(two, monkeypatch):
    looked = []

    def load(shard, folder):
        looked.append(shard.name)
        return load_index(shard, folder)

    monkeypatch.setattr(shards, "load_index", load)
    prepared(two / "t-*.tar")
    assert looked == ["t-000.tar", "t-001.tar"]


@pytest.mark.parametrize("form", ["braces", "list", "pattern", "variable"])
def test_ways_to_name_shards(two, form, monkeypatch):
    monkeypatch.setenv("SHARDS", str(two))
    urls = {
        "braces": f"{two}/t-{{000..001}}.tar",
        "list": [f"{two}/t-000.tar", f"{two}/t-001.tar"],
        "pattern": f"{two}/t-*.tar",
        "variable": "${SHARDS}/t-{000,001}.tar",
    }[form]
    assert prepared(urls).groups == [3, 2]


def test_a_list_keeps_its_order(two):
    assert prepared([f"{two}/t-001.tar", f"{two}/t-000.tar"]).keys[0] == "k3"


def test_shards_of_webdataset(tmp_path):
    path = tmp_path / "w.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for n in range(3):
            sample = {"__key__": f"a/b{n}", "hr.png": pixels(seed=n), "lr.png": pixels((4, 3), n)}
            writer.write({**sample, "txt": f"number {n}", "json": {"n": n}, "pyd": {"bad": 1}})
    source = prepared(path)
    assert source.keys == ["a/b0", "a/b1", "a/b2"]
    sample = source.read(2)
    np.testing.assert_array_equal(sample["hr"], pixels(seed=2))
    np.testing.assert_array_equal(sample["lr"], pixels((4, 3), 2))
    assert sample["text"] == "number 2"
    assert sample["meta"]["json"] == {"n": 2}
    assert set(sample) == {"hr", "lr", "text", "meta"}


def test_same_samples_as_webdataset(data_root, tmp_path):
    path = tmp_path / "t.tar"  # a copy, as the index is written beside it
    shutil.copy(data_root / "cifar10" / "test-automobile-000.tar", path)
    theirs = webdataset.WebDataset(str(path), shardshuffle=False).decode("rgb8")
    ours = prepared(path)
    count = 0
    for index, sample in enumerate(theirs):
        assert ours.keys[index] == sample["__key__"]
        np.testing.assert_array_equal(ours.read(index)["hr"], sample["jpg"])
        count += 1
    assert len(ours.keys) == count == 1000


def test_foreign_tars(data_root, tmp_path):
    for path in (data_root / "cifar10").glob("train-*.tar"):
        shutil.copy(path, tmp_path)
    source = prepared(tmp_path / "train-*.tar")
    assert source.groups == [2500, 2500]
    assert source.read(4999)["hr"].shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.PNG", ("a/b", "png")),
        ("./a/b.hr.png", ("a/b", "hr.png")),
        ("v1.0/b.jpg", ("v1.0/b", "jpg")),
        ("a/.hidden.png", None),
        ("a/noextension", None),
        ("__meta__/a.png", None),
    ],
)
def test_keys_as_webdataset_has_them(name, expected):
    assert split_name(name) == expected


def test_long_names(tmp_path):
    key = "/".join(["folder" * 10] * 5) + "/ü"
    source = prepared(write(tmp_path / "t.tar", [(f"{key}.png", image_bytes(tmp_path, 1))]))
    assert source.keys == [key]
    np.testing.assert_array_equal(source.read(0)["hr"], pixels(seed=1))


def test_captions_that_some_lack(tmp_path, caplog):
    image = image_bytes(tmp_path, 0)
    path = write(tmp_path / "t.tar", [("a.png", image), ("b.png", image), ("b.txt", b" a cat\n")])
    source = prepared(path)
    assert [source.read(0)["text"], source.read(1)["text"]] == ["", "a cat"]
    assert "1 of 2 samples have no txt; their caption is empty" in caplog.text


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


def test_survives_pickling(two):
    source = prepared(two / "t-*.tar")
    source.read(0)
    copy = pickle.loads(pickle.dumps(source))
    assert not copy._reader._open
    np.testing.assert_array_equal(copy.read(4)["hr"], pixels(seed=4))


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
    monkeypatch.setattr(shard_reader, "most_open_files", lambda: 5)
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


def test_limit_of_open_files_is_that_of_the_system(monkeypatch):
    monkeypatch.setattr(shard_reader.resource, "getrlimit", lambda _: (100, 200))
    assert shard_reader.most_open_files() == 50
    monkeypatch.setattr(shard_reader.resource, "getrlimit", lambda _: (-1, -1))
    assert shard_reader.most_open_files() == shard_reader.MOST_FILES


def test_files_are_closed_when_others_have_many_open(seven, monkeypatch):
    source = prepared(seven / "t-*.tar")
    for index in range(6):
        source.read(index)
    opened, refusals = os.open, [OSError(errno.EMFILE, "Too many open files")]

    def open_(*args, **options):
        if refusals:
            raise refusals.pop()
        return opened(*args, **options)

    monkeypatch.setattr(os, "open", open_)
    np.testing.assert_array_equal(source.read(6)["hr"], pixels(seed=0))
    assert len(source._reader._open) == 3


# ------------------------------------------------------------------------------------------- index


def test_index_is_kept_and_used(two):
    prepared(two / "t-*.tar")
    kept = two / "t-000.tar.idx.json"
    content = json.loads(kept.read_text())
    content["samples"][0][0] = "from the index"
    kept.write_text(json.dumps(content))
    assert prepared(two / "t-*.tar").keys[0] == "from the index"


@pytest.mark.parametrize("change", ["content", "time", "index", "other version"])
def test_index_is_made_again(two, change):
    prepared(two / "t-*.tar")
    path, kept = two / "t-000.tar", two / "t-000.tar.idx.json"
    content = json.loads(kept.read_text())
    content["samples"][0][0] = "stale"
    kept.write_text(json.dumps(content))
    if change == "content":
        state = path.stat()
        write(path, [(f"n{n}.png", image_bytes(two, n)) for n in range(20)])
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif change == "time":
        os.utime(path, ns=(1, 1))
    elif change == "index":
        kept.write_text(kept.read_text()[:-9])
    else:
        kept.write_text(json.dumps({**content, "version": 0}))
    keys = prepared(two / "t-*.tar").keys
    assert keys[0] == ("n0" if change == "content" else "k0")
    assert "stale" not in kept.read_text()


def test_index_of_a_folder_that_cannot_be_written(two, monkeypatch):
    from datamodules.shards import index as shard_index

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


def test_folder_marked_read_only_is_left_alone(two):
    """Also as root, which could write to it."""
    folder = two / "marked"
    folder.mkdir()
    shutil.copy(two / "t-000.tar", folder)
    folder.chmod(0o555)
    try:
        prepared(folder / "t-000.tar", index_cache=str(two / "cache"))
        assert [path.name for path in folder.iterdir()] == ["t-000.tar"]
    finally:
        folder.chmod(0o755)
    assert len(list((two / "cache").iterdir())) == 1


def test_equal_names_do_not_share_a_place_in_the_cache(tmp_path):
    places = [index_places(tmp_path / d / "t.tar", tmp_path)[1] for d in ("train", "test")]
    assert places[0] != places[1]


# --------------------------------------------------------------------------------------- bad input


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match=r"do not exist or match no file: .*no-\*\.tar"):
        prepared(tmp_path / "no-*.tar")
    with pytest.raises(ValueError, match="is empty"):
        prepared([])


def test_some_of_a_range_are_missing(two):
    with pytest.raises(ValueError, match=r"2 of 4 do not exist or match no file: .*t-002\.tar"):
        prepared(f"{two}/t-{{000..003}}.tar")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("pipe:cat x.tar", "would run a command: set Shards.allow_pipes: true"),
        ("ftp://host/x.tar", r"expected a path, file:, pipe:, or one of http://, .*s3://, gs://"),
        ("file://host/x.tar", "expected a file on this host"),
        ("http://$NOT_THERE/x.tar", "variable NOT_THERE is not set"),
    ],
)
def test_urls_that_are_refused(url, message):
    with pytest.raises(ValueError, match=message):
        prepared(url)


def test_file_urls(two):
    assert prepared(f"file://{two}/t-{{000,001}}.tar").keys[3] == "k3"
    assert prepared(f"file:{two}/t-*.tar").groups == [3, 2]


def test_a_cache_size_that_is_no_number():
    with pytest.raises(
        ValueError, match=r"Shards\.cache_size is 'much'; expected a number of bytes"
    ):
        Shards("x.tar", cache_size="much")


def test_empty_file(tmp_path):
    (tmp_path / "t.tar").touch()
    with pytest.raises(ValueError, match=r"shard .*t\.tar is empty"):
        prepared(tmp_path / "t.tar")


def test_tar_without_members(tmp_path):
    with pytest.raises(ValueError, match=r"shard .*t\.tar holds no samples"):
        prepared(write(tmp_path / "t.tar", []))


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
    with pytest.raises(ValueError, match=r"shard .*t-000\.tar is (no tar|truncated)"):
        prepared(path)


def test_damaged_header(two):
    path = two / "t-000.tar"
    offset = load_index(path, two / "cache").members[1]["png"].offset
    data = bytearray(path.read_bytes())
    data[offset - 512 + 150] ^= 255
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"t-000\.tar is damaged at byte"):
        prepared(path)


def test_joined_tars(two):
    """`cat a.tar b.tar`: after the end of the first, the second would be lost in silence."""
    path, data = two / "t-000.tar", (two / "t-000.tar").read_bytes()
    path.write_bytes(data + bytes(1 << 20) + data)
    with pytest.raises(ValueError, match=r"t-000\.tar goes on after its end at byte \d+, as tars"):
        prepared(path)
    path.write_bytes(data + bytes(1 << 20))  # of `tar --blocking-factor`
    assert prepared(path)


def test_compressed_and_foreign_files(two):
    with gzip.open(two / "z.tar", "wb") as file:
        file.write((two / "t-000.tar").read_bytes())
    with pytest.raises(ValueError, match=r"shard .*z\.tar is no tar.*compressed"):
        prepared(two / "z.tar")
    (two / "text.tar").write_text("no tar at all\n" * 100)
    with pytest.raises(ValueError, match=r"shard .*text\.tar is no tar"):
        prepared(two / "text.tar")


def test_one_key_in_two_shards(two):
    shutil.copy(two / "t-000.tar", two / "u.tar")
    urls = [f"{two}/t-000.tar", f"{two}/u.tar"]
    with pytest.raises(
        ValueError, match=r"2 samples have the key 'k0' .*t-000.*u\.tar.*shard_in_key"
    ):
        prepared(urls)
    source = prepared(urls, shard_in_key=True)
    assert source.keys == ["t-000/k0", "t-000/k1", "t-000/k2", "u/k0", "u/k1", "u/k2"]


@pytest.mark.parametrize("shard_in_key", [False, True])
def test_advice_about_one_key_in_two_shards_helps(two, shard_in_key):
    """shard_in_key is not advised if it changes nothing."""
    first = two / "t-000.tar"
    with pytest.raises(ValueError, match="this tar is listed twice: list it once"):
        prepared([str(first), str(first)], shard_in_key=shard_in_key)
    other = shutil.copy(first, (two / "more").mkdir() or two / "more" / "t-000.tar")
    with pytest.raises(ValueError, match=r"both tars are called t-000\.tar: rename one, and set"):
        prepared([str(first), str(other)], shard_in_key=shard_in_key)


def test_one_member_twice(two):
    image = image_bytes(two, 0)
    path = write(two / "d.tar", [("a.png", image), ("a.PNG", image)])
    message = (
        r"ending in one sample: 'a\.png' at byte 512 and 'a\.PNG' at byte \d+; remove or rename"
    )
    with pytest.raises(ValueError, match=message):
        prepared(path)


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


def check_joined(source):
    assert source.keys == ["0", "1", "2", "3"]
    for n in range(4):
        sample = source.read(n)
        np.testing.assert_array_equal(sample["hr"], pixels(seed=n))
        np.testing.assert_array_equal(sample["lr"], pixels((4, 3), 100 + n))
        assert (sample["text"], sample["meta"]["json"]) == (f"number {n}", {"n": n})


def test_members_are_joined_wherever_they_lie(tmp_path):
    check_joined(prepared(apart(tmp_path), index_cache=str(tmp_path)))


def test_an_index_that_split_samples_is_made_again(tmp_path, caplog):
    path = apart(tmp_path)
    whole = build_index(path)
    split = [(k, {s: m}) for s in whole.members[0] for k, m in _of(whole, s)]
    old = ShardIndex(whole.size, whole.mtime_ns, [k for k, _ in split], [m for _, m in split])
    save_index(old, index_places(path, tmp_path)[0])
    check_joined(prepared(path, index_cache=str(tmp_path)))
    assert "it lists '0' as several samples" in caplog.text
    assert load_index(path, tmp_path) == whole


def _of(index, suffix):
    return [(k, sample[suffix]) for k, sample in zip(index.keys, index.members, strict=True)]


def test_checksums_of_members_that_lie_apart(tmp_path):
    path = apart(tmp_path)
    save_index(build_index(path, checksums=True, sizes=True), index_places(path, tmp_path)[0])
    source = prepared(path, index_cache=str(tmp_path))
    check_joined(source)
    data = bytearray(path.read_bytes())
    at = build_index(path).members[2]["lr.png"].offset
    data[at + 40] ^= 255
    path.write_bytes(data)
    os.utime(path, ns=(source._tars[0].mtime_ns,) * 2)
    with pytest.raises(UnreadableImage, match=r"2 \(lr\): .*by their checksum"):
        prepared(path, index_cache=str(tmp_path)).read(2)
    prepared(path, index_cache=str(tmp_path)).read(1)


def test_a_member_twice_after_others(tmp_path):
    """As ``tar -r`` appends a newer file."""
    image = image_bytes(tmp_path, 0)
    path = write(tmp_path / "d.tar", [("a.png", image), ("b.png", image), ("./a.png", image)])
    with pytest.raises(ValueError, match=r"'a\.png' at byte 512 and '\./a\.png' at byte \d+"):
        prepared(path)


def test_several_images_in_a_sample(two):
    image = image_bytes(two, 0)
    with pytest.raises(ValueError, match=r"'a': it has several hr members: jpg, png"):
        prepared(write(two / "d.tar", [("a.jpg", image), ("a.png", image)]))


def test_lr_that_some_lack(two):
    image = image_bytes(two, 0)
    path = write(two / "d.tar", [("a.hr.png", image), ("a.lr.png", image), ("b.hr.png", image)])
    with pytest.raises(ValueError, match=r"1 of 2 samples have no lr\.<ext>, such as 'b'"):
        prepared(path)


@pytest.mark.parametrize("name", ["../a.png", "b/../../a.png", "/etc/a.png"])
def test_names_that_lead_out(two, name):
    with pytest.raises(ValueError, match="leads out of its folder"):
        prepared(write(two / "d.tar", [(name, b"x")]))


def test_samples_without_an_image_are_counted(two, caplog):
    path = write(
        two / "d.tar", [("README.txt", b"x"), ("a.png", image_bytes(two, 0)), ("LICENSE", b"x")]
    )
    assert prepared(path).keys == ["a"]
    assert "left out 1 samples without an image" in caplog.text
    assert "passed over 1 members" in caplog.text
    with pytest.raises(ValueError, match=r"none of its 1 samples has an image .*'a' with cls, pyd"):
        prepared(write(two / "e.tar", [("a.cls", b"1"), ("a.pyd", b"x")]))


def test_broken_sample_is_named(two):
    image = image_bytes(two, 0)
    members = [("a.png", image[:60]), ("b.png", image), ("b.txt", b"\xff")]
    source = prepared(write(two / "d.tar", members))
    with pytest.raises(UnreadableImage, match=r"d\.tar: a: .*runcated"):
        source.read(0)
    with pytest.raises(UnreadableImage, match=r"d\.tar: b: its txt or json is broken"):
        source.read(1)


def test_shard_replaced_while_in_use(two):
    source = prepared(two / "t-*.tar")
    write(two / "t-001.tar", [("k3.png", image_bytes(two, 9))])
    with pytest.raises(ValueError, match=r"t-001\.tar was replaced while it was in use"):
        source.read(3)


def test_shard_cut_off_while_in_use(two):
    source = prepared(two / "t-*.tar")
    source.read(0)
    os.truncate(two / "t-000.tar", 600)
    with pytest.raises(ValueError, match=r"t-000\.tar was truncated while it was in use"):
        source.read(2)


def test_shard_removed_while_in_use(two):
    source = prepared(two / "t-*.tar")
    (two / "t-001.tar").unlink()
    with pytest.raises(ValueError, match=r"t-001\.tar was removed while it was in use"):
        source.read(3)


def indexed(path):
    """A tar as the packer writes it."""
    save_index(build_index(path, checksums=True, sizes=True), Path(f"{path}.idx.json"))
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


def test_shard_written_over_while_in_use(two):
    """Bytes and time differ, so the image is not damaged."""
    source = prepared(indexed(two / "t-000.tar"))
    source.read(0)
    flip(two / "t-000.tar", load_index(two / "t-000.tar", two).members[1]["png"].offset)
    os.utime(two / "t-000.tar", ns=(1, 1))
    with pytest.raises(ValueError, match=r"t-000\.tar was replaced while it was in use"):
        source.read(1)


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


def test_size_of_a_pair_is_not_reported(two):
    image = image_bytes(two, 0)
    path = write(two / "p.tar", [("a.hr.png", image), ("a.lr.png", image)])
    assert prepared(indexed(path)).size(0) is None


def test_crop_is_the_part(two):
    part = prepared(two / "t-*.tar").read_crop(3, 1, 2, 4, 3)
    np.testing.assert_array_equal(part["hr"], pixels(seed=3)[1:5, 2:5])


@pytest.mark.parametrize("name", ["{}.jpg {}.rst", "{}.hr.jpg {}.hr.rst"])
def test_crop_by_restart_markers(two, name):
    from datamodules.files.restart import encode_jpeg, restart_offsets

    data = encode_jpeg(pixels((90, 120), 5), 90)
    marks = restart_offsets(data).astype("<u4").tobytes()
    first, second = name.format("a", "a").split()
    members = [(first, data), (second, marks), ("a.txt", b"a cat"), ("b.png", image_bytes(two, 1))]
    source = prepared(indexed(write(two / "r.tar", members)))
    whole = source.read(0)["hr"]
    part = source.read_crop(0, 17, 40, 31, 29)
    np.testing.assert_array_equal(part["hr"], whole[17:48, 40:69])
    assert part["text"] == "a cat"
    np.testing.assert_array_equal(source.read_crop(1, 1, 2, 3, 3)["hr"], pixels(seed=1)[1:4, 2:5])
    assert source.size(0) == whole.shape[:2]


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


def test_profiles_are_converted_as_the_run_wants(two):
    """Also in a crop that is decoded by itself."""
    from datamodules.files.restart import encode_jpeg, restart_offsets

    plain = Image.open(io.BytesIO(encode_jpeg(pixels((90, 120), 5), 90)))
    buffer = io.BytesIO()
    plain.save(buffer, "JPEG", quality=90, icc_profile=rgb_profile(), restart_marker_blocks=3)
    jpeg = buffer.getvalue()
    marks = restart_offsets(jpeg).astype("<u4").tobytes()
    source = prepared(indexed(write(two / "c.tar", [("a.jpg", jpeg), ("a.rst", marks)])))
    converted = source.read(0)["hr"]
    np.testing.assert_array_equal(
        source.read_crop(0, 17, 40, 31, 29)["hr"], converted[17:48, 40:69]
    )
    source.srgb = False
    assert (source.read(0)["hr"] != converted).any()
    np.testing.assert_array_equal(
        source.read_crop(0, 17, 40, 31, 29)["hr"], source.read(0)["hr"][17:48, 40:69]
    )


def test_damaged_restart_markers(two):
    from datamodules.files.restart import encode_jpeg

    data = encode_jpeg(pixels((90, 120), 5), 90)
    path = write(two / "r.tar", [("a.jpg", data), ("a.rst", b"\1\0\0\0" * 5)])
    with pytest.raises(UnreadableImage, match=r"r\.tar: a: "):
        prepared(path).read_crop(0, 0, 0, 8, 8)


# --------------------------------------------------------------------------------------- large sets


@pytest.mark.slow
def test_a_sample_takes_at_most_64_bytes(tmp_path):
    """For 30,000 with keys of 12 characters, checksums and sizes; in arrays, which forks share."""
    for shard in range(3):
        path = tmp_path / f"t-{shard}.tar"
        path.write_bytes(b"")
        os.truncate(path, 1 << 30)
        keys = [f"{shard * 10_000 + n:012d}" for n in range(10_000)]
        members = [
            {"jpg": Member(512 + 60_000 * n, 50_000 + n, n * 977 + 1, 321, 481)}
            for n in range(10_000)
        ]
        state = path.stat()
        index = ShardIndex(state.st_size, state.st_mtime_ns, keys, members)
        save_index(index, Path(f"{path}.idx.json"))
    source = Shards(f"{tmp_path}/t-*.tar", index_cache=f"{tmp_path}/cache")
    for _ in ("indices", "table"):
        gc.collect()
        tracemalloc.start()
        source.prepare(2.0)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(source.keys) == 30_000
        assert taken <= 64 * 30_000
        assert source._table.nbytes <= 64 * 30_000
        source = Shards(f"{tmp_path}/t-*.tar", index_cache=f"{tmp_path}/cache")


@pytest.fixture
def kept(two, monkeypatch):
    """A set whose table is stored, like that of a large set."""
    monkeypatch.setattr(shards, "LARGE", 1)
    members = [("k9.png", image_bytes(two, 9)), ("k9.txt", b"nine"), ("other.cls", b"1")]
    indexed(write(two / "u.tar", members))
    return {"urls": [f"{two}/t-*.tar", f"{two}/u.tar"], "index_cache": f"{two}/cache"}


@pytest.mark.parametrize("mapped", [False, True])
def test_table_is_the_same_as_the_indices(kept, monkeypatch, caplog, mapped):
    first = prepared(**kept)
    monkeypatch.setattr(shard_table, "MAPPED", 0 if mapped else 1 << 28)
    monkeypatch.setattr(shards, "load_index", None)  # fails if an index is read
    caplog.clear()
    again = prepared(**kept)
    assert "left out 1 samples without an image" in caplog.text
    assert again.keys == first.keys == [f"k{n}" for n in (0, 1, 2, 3, 4, 9)]
    assert again.groups == first.groups == [3, 2, 1]
    assert again.size(5) == first.size(5) == pixels().shape[:2]
    assert again.size(0) is None
    for index, seed in enumerate((0, 1, 2, 3, 4, 9)):
        np.testing.assert_array_equal(again.read(index)["hr"], pixels(seed=seed))
    assert [again.read(index)["text"] for index in (0, 5)] == ["", "nine"]


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("change", ["a shard", "an index", "a setting", "the table", "the shards"])
def test_table_is_made_again(two, kept, change, mapped, monkeypatch):
    monkeypatch.setattr(shard_table, "MAPPED", 0 if mapped else 1 << 28)
    prepared(**kept)
    (table,) = (two / "cache").glob("*.table.npz")
    if change == "a shard":
        write(two / "u.tar", [("new.png", image_bytes(two, 9))])
    elif change == "an index":
        place = two / "u.tar.idx.json"
        place.write_text(place.read_text().replace('"k9"', '"new"'))
    elif change == "a setting":
        kept["shard_in_key"] = True
    elif change == "the table":
        table.write_bytes(table.read_bytes()[:-100])
    else:
        kept["urls"].pop()
    last = {"a setting": "u/k9", "the table": "k9", "the shards": "k4"}.get(change, "new")
    assert prepared(**kept).keys[-1] == last


def test_a_mapped_table_takes_no_memory_of_its_own(tmp_path, monkeypatch):
    members = [{"png": Member(512, 9, n, 7, 5)} for n in range(1, 1001)]
    one = shard_table.table_of(
        "a.tar", ShardIndex(1 << 40, 0, [f"{n:09d}" for n in range(1000)], members)
    )
    table = shard_table.joined([one] * 400)
    shard_table.save_table(table, tmp_path / "x.table.npz")
    monkeypatch.setattr(shard_table, "MAPPED", 0)
    before = own()
    mapped = shard_table.load_table(tmp_path / "x.table.npz")
    assert own() - before < table.nbytes / 4  # read, it is all of it
    assert mapped.nbytes == table.nbytes
    assert mapped.keys == table.keys
    assert mapped.keys.digest() == table.keys.digest()
    for name, array in table.columns["hr"].arrays.items():
        np.testing.assert_array_equal(mapped.columns["hr"].arrays[name], array)
    np.testing.assert_array_equal(mapped.sides, table.sides)
    assert not mapped.sides.flags.writeable


def test_old_tables_are_removed(two, kept, monkeypatch):
    monkeypatch.setattr(shard_table, "KEPT", 2)
    for number in range(4):
        os.utime(two / "t-000.tar", ns=(number, number))
        prepared(**kept)
    assert len(list((two / "cache").glob("*.table.npz"))) == 2
    assert not list((two / "cache").glob(".*"))


def test_members_beyond_four_gigabytes_are_refused():
    index = ShardIndex(1 << 40, 0, ["a"], [{"png": Member(512, 1 << 32)}])
    with pytest.raises(
        ValueError, match=r"x\.tar has a hr of 4294967296 bytes; expected 4 GiB at most"
    ):
        shard_table.table_of("x.tar", index)


def test_huge_images_keep_their_sizes():
    index = ShardIndex(1 << 40, 0, ["a"], [{"png": Member(512, 9, None, 70_000, 3)}])
    assert shard_table.table_of("x.tar", index).sides.tolist() == [[70_000, 3]]


def test_pixels_are_those_of_the_file(two):
    np.testing.assert_array_equal(
        prepared(two / "t-000.tar").read(1)["hr"], read_image(two / "source" / "1.png").rgb
    )


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
    register_ranges()
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
    np.testing.assert_array_equal(decoding.read(0)["hr"], plain.read(0)["hr"])
