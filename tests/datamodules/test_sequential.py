"""Sequential: tars read front to back give the same batches however they are read, and resumed."""

from __future__ import annotations

import io
import itertools
import pickle
import random
import subprocess
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import remote, retry, tar_stream
from datamodules.base import SRDataModule
from datamodules.batches import joined
from datamodules.crops import Crops
from datamodules.mix import Mix
from datamodules.retry import Patience, RemoteError
from datamodules.sequential import Sequential
from datamodules.shard_index import sort_command
from datamodules.shards import Shards
from datamodules.tar_stream import BrokenShard, decoded, raws_of
from tests.datamodules.memory import Memory, noisy, with_crops
from tests.datamodules.pictures import pixels
from tests.datamodules.server import serving
from tests.datamodules.test_lightning import fit
from tests.datamodules.test_shards import picture, write

HASTE = Patience(retries=3, deadline=60.0, stall=20.0)  # no test waits so long
SHARDS = 7


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """7 tars of 2 to 8 pictures: k0 to k34. One picture is broken, and one tar is cut off."""
    root = tmp_path_factory.mktemp("tars")
    number = itertools.count()
    for shard in range(SHARDS):
        members = [
            (f"k{n}.png", picture(root, n, size=(20, 18)))
            for n in itertools.islice(number, shard + 2)
        ]
        if shard == 4:
            members[2] = (members[2][0], members[2][1][:100])
        write(root / f"t{shard}.tar", members)
    last = root / "t6.tar"
    with tarfile.open(last) as tar:
        middle = tar.getmembers()[5].offset_data + 20
    last.write_bytes(last.read_bytes()[:middle])
    return root


def source(tars, **options):
    options = {"samples": 24, "shuffle": 9, "retries": 2} | options
    return Sequential(f"{tars}/t{{0..6}}.tar", **options)


def module(train, **options) -> SRDataModule:
    defaults = {"batch_size": 8, "crop_size": 16, "workers": 0, "degradation": noisy()}
    defaults |= {"streams": 4, "unreadable_limit": 1.0}
    return SRDataModule(2, train, **with_crops(defaults | options))


def batches(data, places=((0, 0), (1, 0), (2, 0)), rank=0, world=1):
    """The batches of some epochs, each from some batch on, as one loader gives them."""
    data._ranks = lambda: (rank, world)
    data.setup("fit")
    loader = data.train_dataloader()
    sampler = getattr(loader.batch_sampler, "whole", loader.batch_sampler)
    found = []
    try:
        for place in places:
            sampler.position = lambda at=place: at
            found += [data.on_before_batch_transfer(batch, 0) for batch in loader]
        return found
    finally:
        if loader._iterator is not None:
            loader._iterator._shutdown_workers()


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a["key"] == b["key"]
        assert torch.equal(a["seed"], b["seed"])
        assert torch.equal(a["hr"], b["hr"])


@pytest.fixture(scope="module")
def uninterrupted(tars):
    data = module(source(tars))
    return batches(data), data.tally.reasons


# ------------------------------------------------------------------------------------------ batches


def test_length_is_exact(tars, uninterrupted):
    data = module(source(tars, samples=31))
    data.setup("fit")
    assert len(data.train_dataloader()) == 3
    data.workers = 2
    assert len(data.train_dataloader()) == 3
    assert [len(b["key"]) for b in uninterrupted[0]] == [8] * 9


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_workers(tars, uninterrupted, workers):
    expected, reasons = uninterrupted
    assert {"truncated"} <= set(reasons)
    data = module(source(tars), workers=workers)
    same(batches(data), expected)
    assert data.tally.reasons == reasons


@pytest.mark.parametrize(("world", "workers"), [(2, 0), (2, 2), (4, 0)])
def test_any_number_of_processes(tars, uninterrupted, world, workers):
    ranks = [
        batches(module(source(tars), workers=workers), rank=rank, world=world)
        for rank in range(world)
    ]
    same([joined(list(parts)) for parts in zip(*ranks, strict=True)], uninterrupted[0])


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize(("epoch", "start"), [(0, 1), (1, 0), (1, 2), (2, 1)])
def test_resuming(tars, uninterrupted, epoch, start, workers):
    places = [(epoch, start), *((later, 0) for later in range(epoch + 1, 3))]
    data = module(source(tars), workers=workers)
    same(batches(data, places), uninterrupted[0][3 * epoch + start :])


@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0), (2, 2)])
def test_resuming_on_other_processes(tars, uninterrupted, world, workers):
    ranks = [
        batches(module(source(tars), workers=workers), [(1, 1), (2, 0)], rank, world)
        for rank in range(world)
    ]
    same([joined(list(parts)) for parts in zip(*ranks, strict=True)], uninterrupted[0][4:])


def test_a_loader_that_begins_anew(tars, uninterrupted):
    data = module(source(tars))
    twice = batches(data, [(0, 0), (0, 1), (0, 0)])
    same(twice, [*uninterrupted[0][:3], *uninterrupted[0][1:3], *uninterrupted[0][:3]])


def test_after_the_loaders_process_has_read_too(tars, uninterrupted):
    """As in the command throughput: workers inherit opened streams, and leave them alone."""
    data = module(source(tars))
    batches(data, [(0, 0)])
    data.workers = 2
    loader = data.train_dataloader()
    data._position = lambda: (0, 0)
    same([data.on_before_batch_transfer(b, 0) for b in loader], uninterrupted[0][:3])
    loader._iterator._shutdown_workers()


@settings(max_examples=40, deadline=None)
@given(
    shuffle=st.integers(0, 40),
    streams=st.sampled_from([1, 2, 4]),
    repeats=st.integers(1, 3),
    places=st.lists(st.integers(0, 150), min_size=1, max_size=6),
)
def test_a_sample_is_a_function_of_its_place(tars, shuffle, streams, repeats, places):
    """Wherever a reader comes from: keys at places in any order are those read one by one."""

    def streams_of():
        made = source(tars, shuffle=shuffle)
        made.prepare(2.0)
        made.plan(3, 8, streams, repeats)
        return made

    last = streams - 1
    one, other = streams_of(), streams_of()
    expected = [one.raw(n * streams + last, forget=True).key for n in range(max(places) + 1)]
    for place in places:
        assert other.raw(place * streams + last, forget=True).key == expected[place]


@pytest.mark.parametrize("shuffle", [0, 5, 100])
def test_every_sample_once_a_pass(tars, shuffle):
    """32 samples: 35 pictures but for 3 of the tar that is cut off."""
    made = source(tars, shuffle=shuffle)
    made.prepare(2.0)
    made.plan(0, 1, 1, 1)
    keys = [made.raw(n, forget=True).key for n in range(32 * 25)]
    counts = Counter(keys)
    assert len(counts) == 32
    if shuffle == 0:
        assert set(counts.values()) == {25}
        assert keys[:32] != keys[32:64]
        assert set(keys[:32]) == set(keys[32:64])
    assert max(counts.values()) - min(counts.values()) <= 2 * (1 + shuffle // 32)


def test_shuffles_within_a_tar(tmp_path):
    write(tmp_path / "one.tar", [(f"{n}.png", b"x") for n in range(100)])
    made = Sequential(f"{tmp_path}/one.tar", 10, shuffle=50)
    made.prepare(2.0)
    made.plan(0, 1, 1, 1)
    first = [int(made.raw(n, forget=True).key) for n in range(50)]
    assert sorted(first) == list(range(50))
    assert first != sorted(first)


def test_crops_per_image(tars):
    made = source(tars, samples=32, shuffle=20)
    data = module(made, batch_size=1, streams=1, per_image=3)
    data.setup("fit")
    assert len(data.train_dataloader()) == 96
    seen = batches(data, [(0, 0)])
    assert len({int(b["seed"]) for b in seen}) == 96
    counts = Counter(b["key"][0] for b in seen)
    broken = "train/k16"
    assert broken not in counts
    assert set(counts.values()) >= {3}
    assert len(counts) >= 28


# --------------------------------------------------------------------------------------- what is in


def test_fields_as_shards_reads_them(tmp_path):
    path = tmp_path / "w.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for n in range(3):
            sample = {"__key__": f"a/b{n}", "hr.png": pixels(seed=n), "lr.png": pixels((4, 3), n)}
            writer.write({**sample, "txt": f"number {n}", "json": {"n": n}, "pyd": {"bad": 1}})
    theirs = Shards(str(path), index_cache=str(tmp_path))
    theirs.prepare(2.0)
    raws = list(raws_of(str(path), HASTE))
    assert [raw.key for raw in raws] == theirs.keys
    for index, raw in enumerate(raws):
        expected, got = theirs.read(index), decoded(raw, srgb=True)
        assert got.keys() == expected.keys()
        np.testing.assert_array_equal(got["hr"], expected["hr"])
        np.testing.assert_array_equal(got["lr"], expected["lr"])
        assert (got["text"], got["meta"]) == (expected["text"], expected["meta"])


def test_same_samples_as_webdataset(data_root):
    path = data_root / "cifar10" / "test-automobile-000.tar"
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False))
    raws = list(raws_of(str(path), HASTE))
    assert [raw.key for raw in raws] == [sample["__key__"] for sample in theirs]
    assert [raw.fields["hr"] for raw in raws] == [sample["jpg"] for sample in theirs]


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_pickles_are_passed_over(tmp_path):
    evil = pickle.dumps(Evil())
    write(tmp_path / "a.tar", [("a.pyd", evil), ("a.png", picture(tmp_path, 0)), ("a.pkl", evil)])
    (raw,) = raws_of(f"{tmp_path}/a.tar", HASTE)
    assert set(raw.fields) == {"hr"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/../../b.png"], "leads out of its folder"),
        (["/etc/b.png"], "leads out of its folder"),
        (["a.png", "a.png"], r"in one sample: 'a\.png' at byte 512 and 'a\.png' at byte 1536"),
        (
            ["a.png", "b.png", "a.txt"],
            r"lie apart: 'a\.png' at byte 512, and 'a\.txt' at byte 2560",
        ),
        (
            ["a.txt", "b.png", "a.png"],
            r"lie apart: 'a\.txt' at byte 512, and 'a\.png' at byte 2560",
        ),
        (
            ["a.png", "b.png", "./a.png"],
            r"lie apart: 'a\.png' at byte 512, and '\./a\.png' at byte",
        ),
        (["a.cls", "b.png", "a.png"], r"lie apart: 'a\.cls' at byte 512"),
        (["a.hr.png", "b.hr.png", "a.lr.png"], "lie apart: .* tar --sort=name -cf .*sorted-a"),
        (["a.png", "a.jpg"], "'a' has several hr pictures"),
    ],
)
def test_names_that_are_refused(tmp_path, names, message):
    write(tmp_path / "a.tar", [(name, b"x") for name in names])
    with pytest.raises(ValueError, match=message):
        list(raws_of(f"{tmp_path}/a.tar", HASTE))


def test_the_command_of_the_refusal_sorts_the_tar(tmp_path):
    folder = tmp_path / "it's here"
    folder.mkdir()
    members = [
        (f"{key}.{kind}.png", picture(tmp_path, n, size=(8, 8) if kind == "hr" else (4, 4)))
        for kind in ("lr", "hr")
        for n, key in enumerate(["b", "a-b", "a", "c/d"])
    ]
    path = write(folder / "apart.tar", members)
    data = module(Sequential(str(path), 4, shuffle=0), batch_size=1, streams=1, crop_size=8)
    with pytest.raises(ValueError, match="Sequential reads from front to back") as refused:
        batches(data, [(0, 0)])
    command = str(refused.value).split("`")[1]
    subprocess.run(command, shell=True, check=True)
    raws = list(raws_of(str(folder / "sorted-apart.tar"), HASTE))
    assert sorted(raw.key for raw in raws) == ["a", "a-b", "b", "c/d"]
    assert all(raw.fields.keys() == {"hr", "lr"} for raw in raws)


def test_the_command_loses_no_member_that_comes_twice(tmp_path):
    members = [("a.png", b"first"), ("b.png", b"x"), ("a.png", b"second")]
    path = write(tmp_path / "twice.tar", members)
    with pytest.raises(ValueError, match="lie apart") as refused:
        list(raws_of(str(path), HASTE))
    ran = subprocess.run(str(refused.value).split("`")[1], shell=True, capture_output=True)
    assert ran.returncode != 0
    assert b"a.png" in ran.stderr
    assert not (tmp_path / "sorted-twice.tar").exists()


@pytest.mark.parametrize("name", ["12:30.tar", "-x.tar"])
def test_the_command_reads_every_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, [("a.png", b"1"), ("b.png", b"2"), ("a.txt", b"3")])
    subprocess.run(sort_command(name), shell=True, check=True)
    raws = list(raws_of(f"./sorted-{name}", HASTE))
    assert [raw.key for raw in raws] == ["a", "b"]


def test_refused_before_a_picture_without_its_lr_is_used(tmp_path):
    members = [(f"{n}.{kind}.png", picture(tmp_path, n)) for kind in ("hr", "lr") for n in range(9)]
    path = write(tmp_path / "apart.tar", members)
    data = module(Sequential(str(path), 2, shuffle=0), batch_size=1, streams=1, crop_size=4)
    with pytest.raises(ValueError, match="Sequential reads from front to back"):
        batches(data, [(0, 0)])


def test_a_command_whose_samples_lie_apart(tmp_path):
    path = write(tmp_path / "a.tar", [(f"{n}.png", b"x") for n in "abca"])
    with pytest.raises(ValueError, match=r"save it as shard\.tar and sort it by `mkdir shard"):
        list(raws_of(f"pipe:cat {path}", HASTE))


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(ValueError, match="is a link to '/etc/passwd'"):
        list(raws_of(f"{tmp_path}/a.tar", HASTE))


def test_long_names_and_other_members(tmp_path):
    long = "folder/" * 40 + "a"
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in (f"{long}.png", "README", "__meta__/x.png", ".hidden", f"{long}é.png"):
            info = tarfile.TarInfo(name)
            info.size = 1000
            tar.addfile(info, io.BytesIO(bytes(1000)))
    assert [raw.key for raw in raws_of(f"{tmp_path}/a.tar", HASTE)] == [long, f"{long}é"]


# ------------------------------------------------------------------------------------------- broken


def test_an_unreadable_picture_is_replaced_by_the_next_of_its_stream(tars):
    data = module(source(tars, samples=32, shuffle=0), batch_size=1, streams=1)
    seen = [b["key"][0] for b in batches(data, [(0, 0)])]
    made = source(tars, shuffle=0)
    made.prepare(2.0)
    made.plan(0, 1, 1, 1)
    planned = [f"train/{made.raw(n, forget=True).key}" for n in range(33)]
    at = planned.index("train/k16")
    assert seen == [*planned[:at], planned[at + 1], *planned[at + 1 : 32]]
    assert data.tally.reasons["truncated"] == 2  # the picture, and the tar
    assert any("t4.tar: k16" in message for message in data.tally.pictures.values())
    assert any("t6.tar is truncated at byte" in m for m in data.tally.pictures.values())


def test_too_many_stop_the_run(tars):
    data = module(source(tars), unreadable_limit=0.0)
    with pytest.raises(ValueError, match=r"could not be read .* more than the 0 that"):
        batches(data)


def test_small_pictures_are_skipped(tmp_path):
    members = [(f"{n}.png", picture(tmp_path, n, size=(9 + n, 20))) for n in range(14)]
    write(tmp_path / "a.tar", members)
    made = Sequential(f"{tmp_path}/a.tar", 14, shuffle=0)
    data = module(made, batch_size=2, streams=1, small="skip")
    seen = [key for b in batches(data, [(0, 0)]) for key in b["key"]]
    assert seen == ["train/7"] * 8 + [f"train/{n}" for n in range(8, 14)]
    assert data.tally.unreadable == 0


def cut(data: bytes, offset: int) -> bytes:
    return data[:offset]


def flipped(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 255]) + data[offset + 1 :]


@pytest.mark.parametrize(
    ("damage", "where", "given", "reason"),
    [
        (cut, 0, 0, "truncated"),
        (cut, 300, 0, "truncated"),  # within the first header
        (cut, 512 + 40, 0, "truncated"),  # within the first picture
        (cut, 1024, 0, "truncated"),  # where a tar could end: its last sample may not be whole
        (cut, 1024 + 700, 1, "truncated"),
        (cut, 1024 + 300, 0, "truncated"),
        (flipped, 1024 + 10, 0, "damaged"),  # the second header
        (flipped, 10, 0, "damaged"),
    ],
)
def test_tars_that_are_not_whole(tmp_path, damage, where, given, reason):
    """Samples of one picture each, of one block each."""
    path = write(tmp_path / "a.tar", [(f"{n}.png", b"x" * 400) for n in range(3)])
    path.write_bytes(damage(path.read_bytes(), where))
    found = []
    with pytest.raises(BrokenShard, match=rf"shard .*a\.tar is {reason} at byte") as caught:
        found.extend(raws_of(str(path), HASTE))
    assert caught.value.reason == reason
    assert len(found) == given


def test_a_sample_of_which_a_part_is_missing_is_not_given(tmp_path):
    path = write(tmp_path / "a.tar", [("a.png", b"x"), ("b.hr.png", b"x"), ("b.lr.png", b"x" * 99)])
    path.write_bytes(path.read_bytes()[: 5 * 512 + 50])
    found = []
    with pytest.raises(BrokenShard):
        found.extend(raws_of(str(path), HASTE))
    assert [raw.key for raw in found] == ["a"]


def test_a_tar_that_is_compressed(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(BrokenShard, match="is it compressed, or no tar"):
        list(raws_of(f"{tmp_path}/a.tar", HASTE))


def test_a_member_of_a_huge_size(tmp_path):
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("a.png")
    info.size = 1 << 50
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(BrokenShard, match=r"'a.png' is 1125899906842624 bytes"):
        list(raws_of(str(path), HASTE))


def test_mutated_tars_neither_crash_nor_hang(tmp_path):
    members = [(f"{n}.{e}", bytes([n]) * 300 * n) for n in range(6) for e in ("png", "txt", "cls")]
    whole = write(tmp_path / "a.tar", members).read_bytes()
    generator = random.Random(0)
    ends = Counter()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            header = generator.randrange(0, len(data) // 512) * 512
            data[min(header + generator.randrange(512), len(data) - 1)] = generator.randrange(256)
        data = data[: generator.choice([len(data), generator.randrange(len(data))])]
        (tmp_path / "b.tar").write_bytes(data)
        try:
            list(raws_of(f"{tmp_path}/b.tar", HASTE))
            ends["whole"] += 1
        except (BrokenShard, ValueError) as error:
            ends[type(error).__name__] += 1
    assert ends["BrokenShard"] > 100
    assert ends["whole"] > 10


@pytest.mark.parametrize("content", ["nothing", "no picture", "no tar"])
def test_a_set_without_samples(tmp_path, content):
    path = write(tmp_path / "a.tar", [("a.txt", b"x")] if content == "no picture" else [])
    if content == "no tar":
        path.write_bytes(b"<html>" * 1000)
    data = module(Sequential(str(path), 10), batch_size=2, streams=1)
    message = "is damaged" if content == "no tar" else "they hold no pictures"
    with pytest.raises(ValueError, match=f"no samples in all tars of stream 0 .*{message}"):
        batches(data, [(0, 0)])


def test_a_tar_that_is_replaced(tmp_path):
    path = write(tmp_path / "a.tar", [(f"{n}.png", b"x") for n in range(4)])
    made = Sequential(str(path), 10, shuffle=0)
    made.prepare(2.0)
    made.plan(0, 1, 1, 1)
    made.raw(4)
    write(path, [(f"{n}.png", b"x") for n in range(3)])
    with pytest.raises(ValueError, match=r"a\.tar had 4 samples, and now has 3: it was replaced"):
        made.raw(20)


# ---------------------------------------------------------------------------------- servers, pipes


@pytest.fixture
def server(tars):
    with serving(tars) as state:
        yield state


def test_servers_give_the_same(server, tars, uninterrupted):
    far = Sequential(f"{server.url}/t{{0..6}}.tar", 24, 9, retries=2)
    data = module(far)
    same(batches(data), uninterrupted[0])
    assert data.tally.reasons == uninterrupted[1]


def test_broken_connections(server, tars, uninterrupted):
    server.faults = [503, "cut", None, "cut", "cut", "stall", 500]
    made = Sequential(f"{server.url}/t{{0..6}}.tar", 24, 9, retries=3, deadline=8.0)
    data = module(made, workers=0)
    same(batches(data), uninterrupted[0])
    assert data.tally.reasons == uninterrupted[1]
    assert any(asked.startswith("bytes=") for _, _, asked in server.requests)


def test_a_server_without_ranges(server, tars, uninterrupted):
    server.ranges, server.faults = False, ["cut", None, "cut"]
    made = Sequential(f"{server.url}/t{{0..6}}.tar", 24, 9, retries=3)
    same(batches(module(made)), uninterrupted[0])


def test_a_pause_is_no_failure(server, tars, monkeypatch):
    """A validation may take longer than `deadline`, and the connection may be gone after it."""
    server.faults = ["cut"]
    now = [0.0]
    monkeypatch.setattr(retry.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(remote, "CHUNK", 512)
    blocks = tar_stream._blocks(f"{server.url}/t5.tar", HASTE)
    got = b""
    for block in blocks:
        got += block
        now[0] += 1000.0
    assert got == (tars / "t5.tar").read_bytes()


def test_an_unreachable_server(server):
    server.always = 503
    data = module(Sequential(f"{server.url}/t{{0..6}}.tar", 24, retries=1))
    with pytest.raises(RemoteError, match=r"2 attempts .* 503 .* Sequential\.retries \(1\)"):
        batches(data)


def test_counted_tars_are_not_read_again(server):
    """One tar a stream: to go back, and on to where it was, needs nothing of those in between."""
    made = Sequential(f"{server.url}/t{{0..5}}.tar", 24, shuffle=0)
    made.prepare(2.0)
    made.plan(0, 1, 1, 1)
    expected = [made.raw(n, forget=True).key for n in range(27 * 3 + 3)]
    assert server.got("t0.tar") == 3
    made.raw(0, forget=True)
    server.requests.clear()
    made.raw(27 * 3, forget=True)
    assert sum(method == "GET" for method, *_ in server.requests) < 27
    made._streams.clear()
    server.requests.clear()
    assert made.raw(27 * 3 + 2, forget=True).key == expected[-1]
    assert sum(method == "GET" for method, *_ in server.requests) <= 2


def piped(command, **options):
    return Sequential(f"pipe:{command}", 24, 9, **{"allow_pipes": True, "retries": 1} | options)


@pytest.mark.parametrize("workers", [0, 2])
def test_pipes_give_the_same(tars, uninterrupted, workers):
    data = module(piped(f"cat {tars}/t{{0..6}}.tar"), workers=workers)
    same(batches(data), uninterrupted[0])


def test_pipes_are_refused_by_default(tars):
    data = module(piped(f"cat {tars}/t{{0..6}}.tar", allow_pipes=False))
    with pytest.raises(ValueError, match=r"set Sequential\.allow_pipes: true if you trust"):
        data.setup("fit")


@pytest.mark.parametrize("then", ["; exit 3", " | head -c 700; exit 3"])
def test_a_command_that_fails_is_no_short_tar(tars, then):
    data = module(piped(f"cat {tars}/t{{0..3}}.tar{then}"))
    message = r"pipe:cat .*t\d\.tar.* could not be read: 2 attempts .* ended with status 3"
    with pytest.raises(RemoteError, match=message):
        batches(data)


def test_a_command_that_fails_once(tars, tmp_path, uninterrupted):
    urls = [
        f"pipe:f={tars}/t{n}.tar; m={tmp_path}/{n}; "
        f"if test -e $m; then cat $f; else touch $m; head -c 900 $f; exit 3; fi"
        for n in range(7)
    ]
    made = Sequential(urls, 24, 9, allow_pipes=True, retries=2)
    same(batches(module(made)), uninterrupted[0])


# ---------------------------------------------------------------------------------------- refusals


def test_fewer_tars_than_streams(tars):
    data = module(source(tars), batch_size=16, streams=None)
    with pytest.raises(ValueError, match=r"7 tars, fewer than the 16 streams .*streams to 4 \("):
        data.setup("fit")


def test_no_tars(tmp_path):
    with pytest.raises(ValueError, match=r"Sequential\.urls .* do not exist or match no file"):
        module(Sequential(f"{tmp_path}/*.tar", 10)).setup("fit")
    with pytest.raises(ValueError, match=r"Sequential\.urls is empty"):
        module(Sequential([], 10)).setup("fit")


def test_too_few_samples(tars):
    with pytest.raises(ValueError, match=r"samples is 7 .*batch_size 8: raise samples"):
        module(source(tars, samples=7)).setup("fit")
    with pytest.raises(ValueError, match=r"Sequential\.samples is 0"):
        source(tars, samples=0)


@pytest.mark.parametrize("place", ["val", "test", "predict", "mix", "crops", "crops in val"])
def test_for_training_alone(tars, place):
    made = source(tars)
    good = Memory({"a": {"hr": pixels((32, 32))}})
    settings, stage = {
        "val": ({"val": {"a": made}}, "validate"),
        "test": ({"test": {"a": made}}, "test"),
        "predict": ({"predict": made}, "predict"),
        "mix": ({"train": Mix({"a": made, "b": good})}, "fit"),
        "crops": ({"train": Crops(made)}, "fit"),
        "crops in val": ({"val": {"a": Crops(made)}}, "validate"),
    }[place]
    data = SRDataModule(2, degradation=noisy(), **settings)
    with pytest.raises(ValueError, match=r"read from front to back.*use datamodules\.shards\."):
        data.setup(stage)


def test_a_checkpoint_of_another_order_is_refused(tars):
    def state(**options):
        data = module(source(tars, **options))
        data.setup("fit")
        return data

    saved = state().state_dict()
    state(shuffle=10).load_state_dict(saved)  # the same share of each stream
    for options, message in (({"shuffle": 40}, "shuffle was 3, now"), ({"samples": 32}, "number")):
        with pytest.raises(ValueError, match=message):
            state(**options).load_state_dict(saved)
    fewer = module(Sequential(f"{tars}/t{{0..5}}.tar", 24, 9))
    fewer.setup("fit")
    with pytest.raises(ValueError, match="hash of the names"):
        fewer.load_state_dict(saved)


def test_pieces_of_one_batch():
    """16 bits in one piece, text in one piece."""
    eight = {"key": ["a"], "hr": torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)}
    sixteen = {"key": ["b"], "hr": torch.full((1, 3, 2, 2), 0.5)}
    whole = joined([eight, {**sixteen, "skipped": [1]}])
    assert whole["hr"].flatten()[[0, -1]].tolist() == pytest.approx([0.2, 0.5])
    assert (whole["key"], whole["skipped"]) == (["a", "b"], [1])
    with pytest.raises(ValueError, match=r"only some of 2 samples .* 'text'"):
        joined([{**eight, "text": ["x"]}, sixteen])


# --------------------------------------------------------------------------------------- Lightning


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_resumed(tars, tmp_path, workers):
    def data():
        return module(source(tars), workers=workers)

    _, whole, final = fit(tmp_path, data())
    run, first, _ = fit(tmp_path, data(), max_epochs=1)
    run.save_checkpoint(tmp_path / "one.ckpt")
    _, second, resumed = fit(tmp_path, data(), tmp_path / "one.ckpt")
    assert len(whole.train) == 6
    assert first.train + second.train == whole.train
    assert all(map(torch.equal, final.parameters(), resumed.parameters()))
