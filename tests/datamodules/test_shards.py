"""Shards: tars of webdataset are read, broken ones are named, nothing but pictures is opened."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import webdataset
from torch.utils.data import DataLoader

from datamodules.decode import UnreadableImage, read_picture
from datamodules.shard_index import index_places, load_index, split_name
from datamodules.shards import OPEN_FILES, Shards
from tests.datamodules.pictures import pixels, save


def picture(folder, seed, extension="png", size=(8, 6)):
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
    """Two tars of 3 and 2 pictures."""
    for shard, numbers in enumerate([(0, 1, 2), (3, 4)]):
        members = [(f"k{n}.png", picture(tmp_path, n)) for n in numbers]
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
    path = tmp_path / "t.tar"  # a copy, because the index is written beside it
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
    source = prepared(write(tmp_path / "t.tar", [(f"{key}.png", picture(tmp_path, 1))]))
    assert source.keys == [key]
    np.testing.assert_array_equal(source.read(0)["hr"], pixels(seed=1))


def test_captions_that_some_lack(tmp_path):
    image = picture(tmp_path, 0)
    path = write(tmp_path / "t.tar", [("a.png", image), ("b.png", image), ("b.txt", b" a cat\n")])
    source = prepared(path)
    assert [source.read(0)["text"], source.read(1)["text"]] == ["", "a cat"]


def test_workers_read_the_same(two):
    source = prepared(two / "t-*.tar")
    source.read(0)  # so that a file is open before the fork

    class Pictures:
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return source.read(index)["hr"]

    loader = DataLoader(Pictures(), None, num_workers=2, multiprocessing_context="fork")
    for index, hr in enumerate(loader):
        np.testing.assert_array_equal(hr, pixels(seed=index))


def test_survives_pickling(two):
    source = prepared(two / "t-*.tar")
    source.read(0)
    copy = pickle.loads(pickle.dumps(source))
    assert not copy._files._open
    np.testing.assert_array_equal(copy.read(4)["hr"], pixels(seed=4))


def test_few_files_are_open(tmp_path):
    image = picture(tmp_path, 0)
    for number in range(OPEN_FILES + 5):
        write(tmp_path / f"t-{number:03d}.tar", [(f"k{number}.png", image)])
    gc.collect()  # the sources of other tests
    before = len(os.listdir("/proc/self/fd"))
    source = prepared(tmp_path / "t-*.tar")
    for index in [*range(OPEN_FILES), 0, OPEN_FILES]:
        source.read(index)
    # One had to be closed: the least recently used one.
    assert [path for path in source._files._open if path.endswith(("000.tar", "001.tar"))] == [
        str(tmp_path / "t-000.tar")
    ]
    for index in range(len(source.keys)):
        source.read(index)
    assert len(os.listdir("/proc/self/fd")) == before + OPEN_FILES
    del source
    assert len(os.listdir("/proc/self/fd")) == before


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
        write(path, [(f"n{n}.png", picture(two, n)) for n in range(20)])
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
    from datamodules import shard_index

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
    monkeypatch.setattr(shard_index, "build_index", None)  # would fail if it were made again
    assert load_index(path, cache) == index


def test_folder_marked_read_only_is_left_alone(two):
    """Also by root, who could write to it."""
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


@pytest.mark.parametrize("url", ["pipe:cat x.tar", "http://host/x.tar", "s3://bucket/x.tar"])
def test_remote_urls(url):
    with pytest.raises(ValueError, match="only files can be read"):
        prepared(url)


def test_empty_file(tmp_path):
    (tmp_path / "t.tar").touch()
    with pytest.raises(ValueError, match=r"shard .*t\.tar is empty"):
        prepared(tmp_path / "t.tar")


def test_tar_without_members(tmp_path):
    with pytest.raises(ValueError, match=r"shard .*t\.tar holds no samples"):
        prepared(write(tmp_path / "t.tar", []))


@pytest.mark.parametrize(
    "at", ["in a header", "after a header", "in a picture", "between", "at the end"]
)
def test_truncated_tar(two, at):
    path = two / "t-000.tar"
    index = load_index(path, two / "cache")
    offset, size = index.members[2]["png"][:2]
    end = {
        "in a header": offset - 100,
        "after a header": offset,
        "in a picture": offset + size // 2,
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


def test_one_member_twice(two):
    image = picture(two, 0)
    path = write(two / "d.tar", [("a.png", image), ("a.PNG", image)])
    with pytest.raises(ValueError, match=r"two members 'a\.PNG' in one sample"):
        prepared(path)


def test_several_pictures_in_a_sample(two):
    image = picture(two, 0)
    with pytest.raises(ValueError, match=r"'a' has several hr pictures: \['jpg', 'png'\]"):
        prepared(write(two / "d.tar", [("a.jpg", image), ("a.png", image)]))


def test_lr_that_some_lack(two):
    image = picture(two, 0)
    path = write(two / "d.tar", [("a.hr.png", image), ("a.lr.png", image), ("b.hr.png", image)])
    with pytest.raises(ValueError, match=r"1 of 2 samples have no lr\.<ext>, such as 'b'"):
        prepared(path)


@pytest.mark.parametrize("name", ["../a.png", "b/../../a.png", "/etc/a.png"])
def test_names_that_lead_out(two, name):
    with pytest.raises(ValueError, match="leads out of its folder"):
        prepared(write(two / "d.tar", [(name, b"x")]))


def test_samples_without_a_picture_are_counted(two, caplog):
    path = write(
        two / "d.tar", [("README.txt", b"x"), ("a.png", picture(two, 0)), ("LICENSE", b"x")]
    )
    assert prepared(path).keys == ["a"]
    assert "left out 1 samples without a picture" in caplog.text
    assert "passed over 1 members" in caplog.text
    with pytest.raises(
        ValueError, match=r"none of its 1 samples has a picture .*'a' with cls, pyd"
    ):
        prepared(write(two / "e.tar", [("a.cls", b"1"), ("a.pyd", b"x")]))


def test_broken_sample_is_named(two):
    image = picture(two, 0)
    members = [("a.png", image[:60]), ("b.png", image), ("b.txt", b"\xff")]
    source = prepared(write(two / "d.tar", members))
    with pytest.raises(UnreadableImage, match=r"d\.tar: a: .*runcated"):
        source.read(0)
    with pytest.raises(UnreadableImage, match=r"d\.tar: b: its txt or json is broken"):
        source.read(1)


def test_shard_replaced_while_in_use(two):
    source = prepared(two / "t-*.tar")
    write(two / "t-001.tar", [("k3.png", picture(two, 9))])
    with pytest.raises(ValueError, match=r"t-001\.tar was replaced while it was in use"):
        source.read(3)


def test_shard_cut_off_while_in_use(two):
    source = prepared(two / "t-*.tar")
    source.read(0)
    os.truncate(two / "t-000.tar", 600)
    with pytest.raises(ValueError, match=r"t-000\.tar was cut off while it was in use"):
        source.read(2)


def test_pixels_are_those_of_the_file(two):
    np.testing.assert_array_equal(
        prepared(two / "t-000.tar").read(1)["hr"], read_picture(two / "source" / "1.png").rgb
    )
