"""The writer of shards: plain tars, each whole under its name, with an index that fits."""

from __future__ import annotations

import tarfile

import pytest
import xxhash

from datamodules.shards.index import load_index
from datamodules.shards.writer import ShardWriter, find_shards
from tests.datamodules.image_files import save


@pytest.fixture
def writer(tmp_path):
    return ShardWriter(tmp_path, "s", most=2)


def test_shards_follow_each_other(writer, tmp_path):
    for number in range(5):
        members = {"txt": b"x" * number}
        if not writer.has_room(members):
            writer.finish()
        writer.add(f"k{number}", members)
    writer.finish()
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
        written.append(writer.finish().read_bytes())
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
    path = writer.finish()
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, f"{path.name}.idx.json"]


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


def test_index_has_checksums_and_sizes(writer, tmp_path):
    image = save(tmp_path / "p.png", (7, 5)).read_bytes()
    writer.add("a", {"png": image, "txt": b"words"})
    path = writer.finish()
    index = load_index(path, tmp_path / "nowhere")
    assert index.checksum == xxhash.xxh3_128_hexdigest(path.read_bytes())
    member = index.members[0]["png"]
    assert path.read_bytes()[member.offset : member.offset + member.size] == image
    assert member.checksum == xxhash.xxh3_64_intdigest(image)
    assert (member.height, member.width) == (5, 7)
    assert not (tmp_path / "nowhere").exists()


def test_bytes_limit(tmp_path):
    writer = ShardWriter(tmp_path, "s", most=100, size=3 * 512)
    assert writer.has_room({"txt": b"x" * 5000})  # a sample that fits into no shard gets its own
    writer.add("a", {"txt": b"x"})  # 512 of header, 512 of content
    assert not writer.has_room({"txt": b"x"})
    assert writer.has_room({"txt": b""})


def test_long_and_foreign_names(writer, tmp_path):
    key = "ä" * 60 + "/" + "n" * 150
    writer.add(key, {"txt": b"1"})
    path = writer.finish()
    assert load_index(path, tmp_path).keys == [key]


def test_abandon_frees_the_disk(writer, tmp_path):
    writer.add("a", {"txt": b"1" * 10**6})
    writer.abandon()
    assert list(tmp_path.iterdir()) == []
    writer.abandon()


def test_finds_what_belongs_to_a_name(tmp_path):
    ours = ["s-000000.tar", "s-000001.tar.part", "s-000000.tar.idx.json"]
    ours += [".s-000000.tar.idx.json.17.part", "s-1000000.tar"]
    for name in [*ours, "ss-000000.tar", "s-x.tar", "s-000000.tar.txt", "s.tar"]:
        (tmp_path / name).touch()
    assert {p.name for p in find_shards(tmp_path, "s", parts=True)} == set(ours)
    assert [p.name for p in find_shards(tmp_path, "s")] == ["s-000000.tar", "s-1000000.tar"]
