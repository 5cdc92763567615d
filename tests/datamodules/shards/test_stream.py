"""Stream: webdataset's pipeline gives each whole sample once an epoch, and counts broken tars."""

from __future__ import annotations

import itertools
import pickle
import tarfile
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from datamodules.base import SRDataModule
from datamodules.shards import remote
from datamodules.shards.index import METADATA, split_name
from datamodules.shards.sample import decode_sample, raw_of
from datamodules.shards.shards import Shards
from datamodules.shards.stream import Stream, whole_samples
from tests.datamodules.image_files import image_bytes, pixels
from tests.datamodules.image_files import write_tar as write
from tests.datamodules.memory import data_of, keys_of, opened
from tests.datamodules.server import serving
from tests.quick import quick

SHARDS = 7


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """7 tars of 2 to 8 images: k0 to k34. One image is broken, and one tar is cut off."""
    root = tmp_path_factory.mktemp("tars")
    number = itertools.count()
    for shard in range(SHARDS):
        numbers = itertools.islice(number, shard + 2)
        members = [(f"k{n}.png", image_bytes(n, (20, 18))) for n in numbers]
        if shard == 4:
            name, image = members[2]
            members[2] = (name, image[:100])
        write(root / f"t{shard}.tar", members)
    last = root / "t6.tar"
    with tarfile.open(last) as tar:
        middle = tar.getmembers()[5].offset_data + 20
    last.write_bytes(last.read_bytes()[:middle])
    return root


@pytest.fixture(scope="module")
def even(tmp_path_factory):
    """8 whole tars of 4 images each: e0 to e31."""
    root = tmp_path_factory.mktemp("even")
    for shard in range(8):
        numbers = range(4 * shard, 4 * shard + 4)
        write(root / f"{shard}.tar", {f"e{n}.png": image_bytes(n, (20, 18)) for n in numbers})
    return root


@pytest.fixture(autouse=True)
def _one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def source(tars, **options):
    return Stream(**{"samples": 24, "urls": f"{tars}/t{{0..6}}.tar", "shuffle": 9} | options)


def even_source(even, **options):
    return source(even, **{"urls": f"{even}/{{0..7}}.tar", "samples": 32} | options)


def module(train, **options) -> SRDataModule:
    return data_of(train, **{"batch_size": 8, "streams": 4, "unreadable_limit": 1.0} | options)


def batches(data, places=((0, 0), (1, 0), (2, 0)), rank=0, world=1):
    """The batches of some epochs, each from some batch on, as one loader gives them."""
    data._rank_and_world = lambda: (rank, world)
    data.setup("fit")
    loader = data.train_dataloader()
    found = []
    try:
        for place in places:
            loader.batch_sampler.position = lambda at=place: at
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


def read(*urls):
    """The samples of tars, and what was skipped."""
    notes = []
    raws = [raw_of(s) for s in whole_samples([{"url": str(url)} for url in urls], notes)]
    return [raw for raw in raws if raw is not None], notes


@pytest.fixture(scope="module")
def uninterrupted(tars):
    data = module(source(tars))
    return batches(data), data.tally.reasons


# ------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("workers", quick([0, 1, 3], 1))
def test_the_same_order_for_the_same_seed(tars, uninterrupted, workers):
    first, again = (batches(module(source(tars), workers=workers)) for _ in range(2))
    same(first, again)
    if workers < 2:
        same(first, uninterrupted[0])
    other = batches(module(source(tars), workers=workers, seed=1))
    assert keys_of(first) != keys_of(other)


@pytest.mark.parametrize(
    ("world", "workers"), quick([(1, 0), (1, 2), (2, 0), (2, 2), (4, 2)], 1, 2)
)
@pytest.mark.parametrize("shuffle", quick([0, 5, 100], 5))
def test_every_sample_once_an_epoch(even, world, workers, shuffle):
    epochs = [[] for _ in range(3)]
    for rank in range(world):
        made = even_source(even, shuffle=shuffle)
        seen = batches(module(made, workers=workers), rank=rank, world=world)
        for epoch, keys in enumerate(epochs):
            keys += keys_of(seen[4 * epoch : 4 * epoch + 4])
    for keys in epochs:
        assert sorted(keys) == sorted(f"train/e{n}" for n in range(32))
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("workers", quick([0, 2], 2))
def test_resumed_at_the_beginning_of_an_epoch(tars, workers):
    whole = batches(module(source(tars), workers=workers))
    resumed = batches(module(source(tars), workers=workers), [(1, 0), (2, 0)])
    same(resumed, whole[3:])


def test_resumed_within_an_epoch(even, caplog):
    def made():
        return module(even_source(even), seed=3)

    whole = batches(made())
    resumed = batches(made(), [(1, 1), (2, 0)])
    assert "epoch 1 goes on at batch 1 of 4, and its other batches are read in a new" in caplog.text
    assert len(set(keys_of(resumed[:3]))) == 24
    assert keys_of(resumed[:3]) != keys_of(whole[5:8])
    for ours, theirs in zip(resumed[:3], whole[5:8], strict=True):  # of its place, not its image
        assert torch.equal(ours["seed"], theirs["seed"])
    same(resumed[3:], whole[8:])
    same(batches(made(), [(1, 1), (2, 0)]), resumed)


@pytest.mark.parametrize(("shuffle", "ordered"), [(0, True), (50, False)])
def test_samples_are_shuffled_within_a_tar(tmp_path, shuffle, ordered):
    image = image_bytes(0, (8, 8))
    write(tmp_path / "one.tar", {f"{n}.png": image for n in range(100)})
    stream = Stream(100, f"{tmp_path}/one.tar", shuffle=shuffle)
    data = module(stream, batch_size=1, streams=1, crop_size=4)
    keys = [int(key.removeprefix("train/")) for key in keys_of(batches(data, [(0, 0)]))]
    assert (keys == list(range(100))) == ordered
    assert sorted(keys) == list(range(100))


# --------------------------------------------------------------------------------------- what is in


def test_fields_as_shards_reads_them(tmp_path):
    path = tmp_path / "w.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for n in range(3):
            sample = {"__key__": f"a/b{n}", "hr.png": pixels(seed=n), "lr.png": pixels((4, 3), n)}
            sample |= {"text_features.npy": np.full((2, 3), n, np.float32)}
            writer.write({**sample, "txt": f"number {n}", "json": {"n": n}, "pyd": {"bad": 1}})
    theirs = Shards(str(path), index_cache=str(tmp_path))
    theirs.prepare(2.0)
    raws, notes = read(path)
    assert not notes
    assert [raw.key for raw in raws] == list(theirs.keys)
    for index, raw in enumerate(raws):
        expected, got = theirs.read(index), decode_sample(raw, srgb=True)
        assert got.keys() == expected.keys()
        for name in ("hr", "lr", "text_features"):
            np.testing.assert_array_equal(got.get(name), expected.get(name))
        assert (got.get("text"), got["meta"]) == (expected.get("text"), expected["meta"])


@given(st.text(alphabet="ab.A/_é", max_size=12))
def test_keys_follow_webdatasets_rule(name):
    found = split_name(name)
    key, suffix = base_plus_ext(name)
    hidden = key is None or key.endswith("/")
    if METADATA.match(name) or hidden or not suffix or suffix.startswith("__"):
        assert found is None
    else:
        assert found == (PurePosixPath(key).as_posix(), suffix.lower())


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_pickles_are_passed_over(tmp_path):
    evil = pickle.dumps(Evil())
    write(tmp_path / "a.tar", {"a.pyd": evil, "a.png": image_bytes(0), "a.pkl": evil})
    ((raw,), _) = read(tmp_path / "a.tar")
    assert set(raw.fields) == {"hr"}


# ------------------------------------------------------------------------------------------- broken


def test_an_unreadable_image_is_replaced_by_the_next_one(tmp_path):
    image = image_bytes(0, (20, 20))
    members = [(f"{n}.png", image[:100] if n in (2, 3) else image) for n in range(8)]
    write(tmp_path / "a.tar", members)
    data = module(Stream(6, f"{tmp_path}/a.tar", shuffle=0), batch_size=1, streams=1)
    assert keys_of(batches(data, [(0, 0)])) == [f"train/{n}" for n in (0, 1, 4, 5, 6, 7)]
    assert data.tally.reasons == {"truncated": 2}
    assert data.tally.failed == 1  # of six places: the other image was to replace one
    assert any("a.tar: 2" in message for message in data.tally.images.values())


def cut(data: bytes, offset: int) -> bytes:
    return data[:offset]


def flipped(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 255]) + data[offset + 1 :]


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (cut, 0),
        (cut, 300),  # within the first header
        (cut, 512 + 40),  # within the first image
        (cut, 1024),  # where a tar could end
        (flipped, 10),
        (flipped, 1024 + 10),  # the second header
        (flipped, 2 * 1024 + 10),  # the last header
    ],
)
@pytest.mark.parametrize("more", [0, 300_000])
def test_whole_samples_of_a_broken_tar_are_read_and_it_is_counted(tmp_path, damage, where, more):
    """Samples of one image each, of one block each; perhaps after a long one."""
    members = {"long.png": b"y" * more} if more else {}
    before = (512 + -(-more // 512) * 512) if more else 0
    path = write(tmp_path / "a.tar", members | {f"{n}.png": b"x" * 400 for n in range(3)})
    path.write_bytes(damage(path.read_bytes(), before + where))
    next_one = write(tmp_path / "b.tar", {"2.png": b"x"})

    raws, (note,) = read(path, next_one)

    assert len(raws) < 3 + bool(more)
    assert raws[-1].shard == str(next_one)
    assert note.reason == "unreadable tar"
    assert "a.tar cannot be read to its end" in note.message


def test_a_sample_of_which_a_part_is_missing_is_not_given(tmp_path):
    members = {"a.png": b"x", "b.hr.png": b"x", "b.lr.png": b"x" * 99}
    path = write(tmp_path / "a.tar", members)
    path.write_bytes(path.read_bytes()[: 5 * 512 + 50])
    raws, notes = read(path, write(tmp_path / "b.tar", {"b.png": b"other"}))
    assert [(raw.key, raw.fields["hr"]) for raw in raws] == [("a", b"x"), ("b", b"other")]
    assert len(notes) == 1


@pytest.mark.parametrize("content", ["nothing", "no image", "no tar"])
def test_a_set_without_samples_is_refused(tmp_path, content):
    path = write(tmp_path / "a.tar", [("a.txt", b"x")] if content == "no image" else [])
    if content == "no tar":
        path.write_bytes(b"<html>" * 1000)
    data = module(Stream(10, str(path)), batch_size=2, streams=1)
    message = "to its end" if content == "no tar" else "no images in it"
    with pytest.raises(ValueError, match=f"Stream.urls: no samples in a pass .*{message}"):
        batches(data, [(0, 0)])


# ---------------------------------------------------------------------------------- servers, pipes


def test_servers_give_the_same_as_files(tars, uninterrupted):
    with serving(tars) as server:
        data = module(source(tars, urls=f"{server.url}/t{{0..6}}.tar"))
        same(batches(data), uninterrupted[0])
        assert data.tally.reasons == uninterrupted[1]


def test_a_missing_tar_is_counted(even):
    with serving(even) as server:
        raws, (note,) = read(f"{server.url}/none.tar?secret", even / "1.tar")
    assert [raw.key for raw in raws] == [f"e{n}" for n in range(4, 8)]
    assert note.reason == "unreadable tar"
    assert "none.tar?... cannot be read: attempt 1 failed (" in note.message
    assert "secret" not in str(note)


def test_a_server_that_stalls_is_counted(even, monkeypatch):
    monkeypatch.setattr(remote, "STALL", 0.5)
    monkeypatch.setattr(remote, "DEADLINE", 0.1)
    with serving(even) as server:
        server.always = "stall"
        urls = [f"{server.url}/0.tar", f"{even}/1.tar"]
        data = module(Stream(8, urls, shuffle=0), workers=1)
        seen = batches(data, [(0, 0)])
    assert set(keys_of(seen)) == {f"train/e{n}" for n in range(4, 8)}
    (message,) = data.tally.images.values()
    assert "Timeout" in message


@pytest.mark.parametrize("workers", [0, 1])
def test_pipes_give_the_same_as_files(tars, uninterrupted, workers):
    piped = source(tars, urls=f"pipe:cat {tars}/t{{0..6}}.tar", allow_pipes=True)
    data = module(piped, workers=workers)
    same(batches(data), uninterrupted[0])


@pytest.mark.parametrize("then", ["; exit 3", " | head -c 700; exit 3"])
def test_a_command_that_fails_is_no_short_tar(tars, then):
    raws, (note,) = read(f"pipe:cat {tars}/t0.tar{then}")
    assert len(raws) <= 2
    assert note.reason == "unreadable tar"


# ---------------------------------------------------------------------------------------- refusals


def test_fewer_tars_than_processes_are_refused(tars):
    made = source(tars, urls=f"{tars}/t{{0..1}}.tar")
    with pytest.raises(ValueError, match=r"2 tars, fewer than the 4 processes"):
        batches(module(made), rank=0, world=4)
    data = module(made, workers=4)
    data.setup("fit")
    assert data.train_dataloader().num_workers == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shuffle": 40}, "shuffle was 9, now"),
        ({"samples": 32}, "number"),
        ({"urls": "t{0..5}.tar"}, "hash of the names"),
    ],
)
def test_a_checkpoint_of_another_order_is_refused(tars, monkeypatch, change, message):
    monkeypatch.chdir(tars)
    saved = opened(source(tars)).state_dict()
    opened(source(tars)).load_state_dict(saved)
    other = opened(source(tars, **change))
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(saved)
