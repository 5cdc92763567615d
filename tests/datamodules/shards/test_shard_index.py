"""The index of a shard: what is in it, when it is believed, and tars that are made to do harm."""

from __future__ import annotations

import json
import os
import tarfile
import tracemalloc
from dataclasses import replace

import pytest
import xxhash

from datamodules.shards.index import (
    build_index,
    checksum_of,
    load_index,
    parse_index,
    read_index,
    save_index,
)
from tests.datamodules.image_files import pixels
from tests.datamodules.shards.test_shards import image_bytes, indexed, write


@pytest.fixture
def shard(tmp_path):
    """A tar of three images, one with a caption."""
    members = [(f"k{n}.png", image_bytes(tmp_path, n)) for n in range(3)]
    return write(tmp_path / "t.tar", [*members, ("k2.txt", b"two")])


def test_checksums_and_sizes(shard):
    index = build_index(shard, examine=True)
    data = shard.read_bytes()
    assert index.checksum == checksum_of(shard) == xxhash.xxh3_128_hexdigest(data)
    for members in index.members:
        for member in members.values():
            content = data[member.offset : member.offset + member.size]
            assert member.checksum == xxhash.xxh3_64_intdigest(content)
    assert index.members[0]["png"][3:] == pixels().shape[:2]
    assert index.members[2]["txt"][3:] == (0, 0)


@pytest.mark.parametrize("examine", [False, True])
def test_written_and_read(shard, tmp_path, examine):
    index = build_index(shard, examine)
    save_index(index, tmp_path / "i.json")
    assert read_index(tmp_path / "i.json") == index
    assert json.loads((tmp_path / "i.json").read_text())["count"] == 3


# ------------------------------------------------------------------------------ when it is believed


def test_index_of_another_tar_of_the_same_size(shard, tmp_path, caplog):
    indexed(shard)
    members = [(f"j{n}.png", image_bytes(tmp_path, n)) for n in range(3)]
    write(shard, [*members, ("j2.txt", b"two")])
    os.utime(shard, ns=(5, 5))
    assert load_index(shard, tmp_path / "cache").keys == ["j0", "j1", "j2"]
    assert "is that of another tar, and is made again" in caplog.text


def test_an_index_that_travelled_finds_damage(shard, tmp_path):
    """By its checksums, which a new one would not have."""
    indexed(shard)
    made = load_index(shard, tmp_path / "cache")
    data = bytearray(shard.read_bytes())
    first = made.members[0]["png"]
    data[first.offset + 40] ^= 255
    shard.write_bytes(data)
    os.utime(shard, ns=(5, 5))
    found = load_index(shard, tmp_path / "cache")
    assert found == replace(made, mtime_ns=5)
    assert load_index(shard, tmp_path / "cache") == found


LIES = {
    "no number": {"png": ["a", 10]},
    "not finite": {"png": [float("nan"), 10]},
    "too many": {"png": [512, 10, None, 1, 1, 1]},
    "checksum": {"png": [512, 10, "xyz"]},
    "no members": 7,
}


@pytest.mark.parametrize("lie", LIES)
def test_indices_that_lie_are_refused(shard, tmp_path, lie, caplog):
    indexed(shard)
    place = tmp_path / "t.tar.idx.json"
    content = json.loads(place.read_text())
    content["samples"][1][1] = LIES[lie]
    place.write_text(json.dumps(content))
    assert load_index(shard, tmp_path).members == build_index(shard).members
    assert "is damaged" in caplog.text
    assert "is made again" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"version": 2}',
        "[" * 100_000,
    ],
)
def test_damaged_indices(text):
    assert parse_index(text.encode(), "t.tar.idx.json") is None


# -------------------------------------------------------------------------------- tars that do harm


def header(name, size=0, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_refused(shard, kind):
    info = tarfile.TarInfo("k9.png")
    info.type, info.linkname = kind, "k0.png"
    with tarfile.open(shard, "a") as tar:
        tar.addfile(info)
    with pytest.raises(ValueError, match=r"'k9\.png' .*is a link to 'k0\.png'.*--dereference"):
        build_index(shard)


def test_sparse_members_are_refused(tmp_path):
    path = tmp_path / "s.tar"
    sparse = bytearray(header("k.png", 512, tarfile.GNUTYPE_SPARSE))
    sparse[386:410] = b"00000000000\0" + b"00000001000\0"  # the extents: 512 bytes at 0
    sparse[483:495] = b"00077777777\0"  # the true size
    sparse[148:156] = b" " * 8
    sparse[148:156] = b"%06o\0 " % sum(sparse)
    path.write_bytes(bytes(sparse) + bytes(512) + bytes(1024))
    with pytest.raises(ValueError, match=r"'k\.png' .*is sparse"):
        build_index(path)


def pax(records):
    text = b"".join(b"%d %s\n" % (len(r) + len(str(len(r) + 3)) + 2, r) for r in records)
    return header("pax", len(text), tarfile.XHDTYPE) + text.ljust(512, b"\0")


HARM = {
    "a name of 8 GB": header("././@LongLink", 8**11 - 1, tarfile.GNUTYPE_LONGNAME),
    "attributes of 8 GB": header("pax", 8**11 - 1, tarfile.XHDTYPE),
    "a member of 2**62 bytes": header("k.png", 2**62),
    "a negative size": header("k.png", -1024),
    "a negative size of a name": header("././@LongLink", -512, tarfile.GNUTYPE_LONGNAME),
    "a size in the attributes": pax([b"size=-5000"]) + header("k.png"),
    "a list of holes without an end": pax(
        [b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.name=k.png"]
    )
    + header("k.png", 512)
    + b"99999999\n".ljust(512, b"1"),
    "names of names": header("././@LongLink", 5, tarfile.GNUTYPE_LONGNAME) * 5000,
    "attributes of attributes": pax([b"path=k.png"]) * 2000,
}


@pytest.mark.parametrize("harm", HARM)
def test_tars_that_do_harm(tmp_path, harm):
    """A clear error, soon, and without much memory."""
    path = tmp_path / "h.tar"
    path.write_bytes(HARM[harm] + bytes(1024))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"^shard .*h\.tar "):
            build_index(path, examine=True)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
