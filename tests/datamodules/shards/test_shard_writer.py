"""The writer of shards: plain tars, each whole under its name, with an index that fits."""

from __future__ import annotations

import tarfile

import pytest
import xxhash

from datamodules.shards.writer import ShardWriter, find_shards


@pytest.fixture
def writer(tmp_path):
    return ShardWriter(tmp_path, "s", most=2)


def test_shards_follow_each_other(writer, tmp_path):
    for number in range(5):
        writer.add(f"k{number}", {"txt": b"x" * number})
    writer.finish()
    assert [(shard.name, shard.samples) for shard in writer.shards] == [
        ("s-000000.tar", 2),
        ("s-000001.tar", 2),
        ("s-000002.tar", 1),
    ]
    found = []
    for path in find_shards(tmp_path, "s"):
        with tarfile.open(path) as tar:
            found.append(tar.getnames())
    assert found == [["k0.txt", "k1.txt"], ["k2.txt", "k3.txt"], ["k4.txt"]]


def test_the_same_samples_give_the_same_bytes(tmp_path, monkeypatch):
    """Whoever writes them, and whenever; members are sorted, and none is left out."""
    samples = {"a/1": {"txt": b"1", "hr.png": b"x" * 700, "_x": b"2"}, "ä" * 120: {"json": b"{}"}}
    written = []
    for folder, now in (("one", 1e9), ("two", 2e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        (tmp_path / folder).mkdir()
        writer = ShardWriter(tmp_path / folder, "s", most=9)
        for key, members in samples.items():
            writer.add(key, members if folder == "one" else dict(reversed(members.items())))
        writer.finish()
        written.append((tmp_path / folder / "s-000000.tar").read_bytes())
    assert written[0] == written[1]
    with tarfile.open(tmp_path / "one" / "s-000000.tar") as tar:
        found = tar.getmembers()
    assert [m.name for m in found] == ["a/1._x", "a/1.hr.png", "a/1.txt", "ä" * 120 + ".json"]
    same = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in found}
    assert same == {(0, 0, 0, "", "", 0o444)}
    assert xxhash.xxh3_64_hexdigest(written[0]) == "35d016bb724caf01"


def test_nothing_has_a_shards_name_before_it_is_whole(writer, tmp_path):
    writer.add("a", {"txt": b"1"})
    assert find_shards(tmp_path, "s") == []
    assert [path.name for path in tmp_path.iterdir()] == ["s-000000.tar.part"]
    writer.finish()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["s-000000.tar", "s-000000.tar.idx.json"]


def test_the_index_is_there_before_the_shard(writer, tmp_path, monkeypatch):
    """So that a kill between the two leaves no shard without checksums."""
    writer.add("a", {"txt": b"1"})
    monkeypatch.setattr("datamodules.shards.writer.put_in_place", no_shard)
    with pytest.raises(OSError, match=r"tar\.part"):
        writer.finish()
    assert (tmp_path / "s-000000.tar.idx.json").exists()
    assert find_shards(tmp_path, "s") == []


def no_shard(part, path):
    raise OSError(f"no {part.name}")


def test_abandon_frees_the_disk(writer, tmp_path):
    writer.add("a", {"txt": b"1" * 10**6})
    writer.abandon()
    assert list(tmp_path.iterdir()) == []
    writer.abandon()


def test_finds_what_belongs_to_a_name(tmp_path):
    ours = ["s-000000.tar", "s-000001.tar.part", "s-000000.tar.idx.json"]
    ours += ["s-1000000.tar"]
    for name in [*ours, "ss-000000.tar", "s-x.tar", "s-000000.tar.txt", "s.tar"]:
        (tmp_path / name).touch()
    assert {p.name for p in find_shards(tmp_path, "s", parts=True)} == set(ours)
    assert [p.name for p in find_shards(tmp_path, "s")] == ["s-000000.tar", "s-1000000.tar"]
