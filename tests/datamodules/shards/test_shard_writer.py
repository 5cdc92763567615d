"""The writer of shards: plain tars, each whole under its name, with an index that fits."""

from __future__ import annotations

import tarfile

import pytest
import xxhash

from datamodules.shards.writer import find_shards, write_shard


def test_the_same_samples_give_the_same_bytes(tmp_path, monkeypatch):
    """Whoever writes them, and whenever; members are sorted, and none is left out."""
    samples = {"a/1": {"txt": b"1", "hr.png": b"x" * 700, "_x": b"2"}, "ä" * 120: {"json": b"{}"}}
    turned = {key: dict(reversed(members.items())) for key, members in samples.items()}
    monkeypatch.setattr("time.time", lambda: 1e9)
    write_shard(tmp_path / "one.tar", samples.items())
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_shard(tmp_path / "two.tar", turned.items())
    written = (tmp_path / "one.tar").read_bytes()
    assert written == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        found = tar.getmembers()
    assert [m.name for m in found] == ["a/1._x", "a/1.hr.png", "a/1.txt", "ä" * 120 + ".json"]
    same = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in found}
    assert same == {(0, 0, 0, "", "", 0o444)}
    assert xxhash.xxh3_64_hexdigest(written) == "35d016bb724caf01"


def test_nothing_has_a_shards_name_before_it_is_whole(tmp_path):
    """Its index does, so that a kill between the two leaves no shard without checksums."""
    path = tmp_path / "s-000000.tar"

    def stop(index):
        assert not path.exists()
        raise OSError("stopped")

    with pytest.raises(OSError, match="stopped"):
        write_shard(path, [("a", {"txt": b"1"})], stop)
    assert [found.name for found in tmp_path.iterdir()] == ["s-000000.tar.idx.json"]


def test_a_broken_input_leaves_nothing(tmp_path):
    def samples():
        yield "a", {"txt": b"1" * 10**6}
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_shard(tmp_path / "s-000000.tar", samples())
    assert list(tmp_path.iterdir()) == []


def test_finds_what_belongs_to_a_name(tmp_path):
    ours = ["s-000000.tar", "s-1000000.tar"]
    others = ["s-000000.tar.idx.json", "ss-000000.tar", "s-x.tar", "s-000000.tar.txt", "s.tar"]
    for name in [*ours, *others]:
        (tmp_path / name).touch()
    assert [path.name for path in find_shards(tmp_path, "s")] == ours
