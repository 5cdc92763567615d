"""Stream: webdataset's pipeline gives each whole sample once an epoch, and counts broken tars."""

from __future__ import annotations

import io
import itertools
import pickle
import random
import subprocess
import tarfile
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from webdataset.tariterators import base_plus_ext

from datamodules.base import SRDataModule
from datamodules.shards import stream
from datamodules.shards.index import METADATA, sort_command, split_name
from datamodules.shards.shards import Shards
from datamodules.shards.stream import Stream, decoded, raw_of, samples_of
from datamodules.sources.crops import Crops
from datamodules.sources.mix import Mix
from tests.datamodules.image_files import pixels
from tests.datamodules.memory import Memory, noisy, with_crops
from tests.datamodules.server import serving
from tests.datamodules.shards.test_shards import image_bytes, write
from tests.datamodules.test_lightning import fit
from tests.quick import quick

SHARDS = 7


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """7 tars of 2 to 8 images: k0 to k34. One image is broken, and one tar is cut off."""
    root = tmp_path_factory.mktemp("tars")
    number = itertools.count()
    for shard in range(SHARDS):
        members = [
            (f"k{n}.png", image_bytes(root, n, size=(20, 18)))
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


@pytest.fixture(scope="module")
def even(tmp_path_factory):
    """8 whole tars of 4 images each: e0 to e31."""
    root = tmp_path_factory.mktemp("even")
    for shard in range(8):
        members = [
            (f"e{n}.png", image_bytes(root, n, size=(20, 18)))
            for n in range(4 * shard, 4 * shard + 4)
        ]
        write(root / f"{shard}.tar", members)
    return root


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def source(tars, **options):
    return Stream(**{"samples": 24, "urls": f"{tars}/t{{0..6}}.tar", "shuffle": 9} | options)


def module(train, **options) -> SRDataModule:
    defaults = {"batch_size": 8, "crop_size": 16, "workers": 0, "degradation": noisy()}
    defaults |= {"streams": 4, "unreadable_limit": 1.0}
    return SRDataModule(2, train, **with_crops(defaults | options))


def batches(data, places=((0, 0), (1, 0), (2, 0)), rank=0, world=1):
    """The batches of some epochs, each from some batch on, as one loader gives them."""
    data._ranks = lambda: (rank, world)
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


def keys_of(batches):
    return [key for batch in batches for key in batch["key"]]


def read(*urls):
    """The samples of tars, and what was skipped."""
    notes = []
    raws = [raw_of(s) for s in samples_of([{"url": str(url)} for url in urls], notes)]
    return [raw for raw in raws if raw is not None], notes


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


@pytest.mark.parametrize("workers", quick([0, 1, 3], 1))
def test_the_same_order_for_the_same_seed(tars, uninterrupted, workers):
    first, again = (batches(module(source(tars), workers=workers)) for _ in range(2))
    same(first, again)
    if workers < 2:
        same(first, uninterrupted[0])
    other = batches(module(source(tars), workers=workers, seed=1))
    assert keys_of(first) != keys_of(other)


def test_what_is_broken_is_counted(uninterrupted):
    reasons = uninterrupted[1]
    assert set(reasons) == {"truncated"}
    assert reasons["truncated"] >= 3  # a tar each epoch, and an image


@pytest.mark.parametrize(
    ("world", "workers"), quick([(1, 0), (1, 2), (2, 0), (2, 2), (4, 2)], 1, 2)
)
@pytest.mark.parametrize("shuffle", quick([0, 5, 100], 5))
def test_every_sample_once_an_epoch(even, monkeypatch, world, workers, shuffle):
    epochs = [[] for _ in range(3)]
    for rank in range(world):
        if not workers:
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", str(world))
        made = source(even, urls=f"{even}/{{0..7}}.tar", samples=32, shuffle=shuffle)
        seen = batches(module(made, workers=workers), rank=rank, world=world)
        for epoch, keys in enumerate(epochs):
            keys += keys_of(seen[4 * epoch : 4 * epoch + 4])
    for keys in epochs:
        assert sorted(keys) == sorted(f"train/e{n}" for n in range(32))
    assert epochs[0] != epochs[1] != epochs[2]


def test_processes_that_webdataset_counts_otherwise(even, monkeypatch):
    made = source(even, urls=f"{even}/{{0..7}}.tar")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ValueError, match=r"process 1 of 2, and webdataset takes it .* 0 of 1"):
        batches(module(made), rank=1, world=2)


@pytest.mark.parametrize("workers", quick([0, 2], 2))
def test_resumed_at_the_beginning_of_an_epoch(tars, workers):
    whole = batches(module(source(tars), workers=workers))
    resumed = batches(module(source(tars), workers=workers), [(1, 0), (2, 0)])
    same(resumed, whole[3:])


def test_resumed_within_an_epoch(even, caplog):
    def made():
        return module(source(even, urls=f"{even}/{{0..7}}.tar", samples=32), seed=3)

    whole = batches(made())
    resumed = batches(made(), [(1, 1), (2, 0)])
    assert "epoch 1 goes on at batch 1 of 4, and its other batches are read in a new" in caplog.text
    assert len(set(keys_of(resumed[:3]))) == 24
    assert keys_of(resumed[:3]) != keys_of(whole[5:8])
    for ours, theirs in zip(resumed[:3], whole[5:8], strict=True):  # of its place, not its image
        assert torch.equal(ours["seed"], theirs["seed"])
    same(resumed[3:], whole[8:])
    same(batches(made(), [(1, 1), (2, 0)]), resumed)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_epoch_again(tars, workers):
    """As in ``overfit_batches``, which stops within the epoch."""
    data = module(source(tars), workers=workers)
    twice = batches(data, [(0, 0), (0, 0)])
    same(twice[:3], twice[3:])


def test_after_the_loaders_process_has_read_too(tars, uninterrupted):
    """Workers inherit open streams, and leave them alone."""
    data = module(source(tars))
    batches(data, [(0, 0)])
    data.workers = 1
    loader = data.train_dataloader()
    data._position = lambda: (0, 0)
    same([data.on_before_batch_transfer(b, 0) for b in loader], uninterrupted[0][:3])
    loader._iterator._shutdown_workers()


def test_it_is_pickled_while_it_is_read(tars):
    data = module(source(tars))
    batches(data, [(0, 0)])
    dataset = data.train_dataloader().dataset
    again = pickle.loads(pickle.dumps(dataset))
    items = next(iter(data.plan().batches(1, 0, 0, 1)))
    expected = [s["key"] for s in dataset.__getitems__(items)]
    assert [again[item]["key"] for item in items] == expected  # one by one, too


def test_shuffles_within_a_tar(tmp_path):
    image = image_bytes(tmp_path, 0, size=(8, 8))
    write(tmp_path / "one.tar", [(f"{n}.png", image) for n in range(100)])
    for shuffle, ordered in ((0, True), (50, False)):
        made = Stream(100, f"{tmp_path}/one.tar", shuffle=shuffle)
        data = module(made, batch_size=1, streams=1, crop_size=4)
        keys = [int(key.removeprefix("train/")) for key in keys_of(batches(data, [(0, 0)]))]
        assert (keys == list(range(100))) == ordered
        assert sorted(keys) == list(range(100))


def test_crops_per_image(even):
    made = source(even, urls=f"{even}/{{0..7}}.tar", samples=32)
    seen = batches(module(made, batch_size=8, per_image=3), [(0, 0)])
    assert len(seen) == 12
    assert len({int(seed) for b in seen for seed in b["seed"]}) == 96
    assert set(Counter(keys_of(seen)).values()) == {3}


def test_resampled(even):
    """Drawn with replacement: as long as asked for, with fewer tars than workers."""
    made = source(even, urls=f"{even}/0.tar", samples=32, resampled=True)
    first, again = (batches(module(made, workers=2), [(0, 0), (1, 0)]) for _ in range(2))
    same(first, again)
    assert set(keys_of(first)) == {f"train/e{n}" for n in range(4)}
    made = source(even, urls=f"{even}/{{0..7}}.tar", samples=32, resampled=True)
    counts = Counter(keys_of(batches(module(made), [(0, 0)])))
    assert max(counts.values()) > 1


# --------------------------------------------------------------------------------------- what is in


def test_fields_as_shards_reads_them(tmp_path):
    path = tmp_path / "w.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for n in range(3):
            sample = {"__key__": f"a/b{n}", "hr.png": pixels(seed=n), "lr.png": pixels((4, 3), n)}
            sample |= {"text_features.npy": np.full((2, 3), n, np.float32)}
            writer.write({**sample, "txt": f"number {n}", "json": {"n": n}, "pyd": {"bad": 1}})
    hold_against_shards(path, tmp_path)


def hold_against_shards(path, cache):
    theirs = Shards(str(path), index_cache=str(cache))
    theirs.prepare(2.0)
    raws, notes = read(path)
    assert not notes
    assert [raw.key for raw in raws] == list(theirs.keys)
    for index, raw in enumerate(raws):
        expected, got = theirs.read(index), decoded(raw, srgb=True)
        assert got.keys() == expected.keys()
        for name in ("hr", "lr", "text_features"):
            np.testing.assert_array_equal(got.get(name), expected.get(name))
        assert (got.get("text"), got["meta"]) == (expected.get("text"), expected["meta"])
    return raws


ODD = [  # members of each sample, and the key that all three give it
    (["v1.0/a.png", "v1.0/a.json"], "v1.0/a"),
    (["x.y.z/b.HR.PNG", "x.y.z/b.Lr.Png"], "x.y.z/b"),
    (["c.hr.png", "c.rst", "c.tar.gz", "c.txt"], "c"),
    (["ü/漢字.png", "ü/漢字.caption"], "ü/漢字"),
    (["deep/" * 30 + "n" * 120 + ".png"], "deep/" * 30 + "n" * 120),  # a PAX header
    (["space in/a name .png"], "space in/a name "),
    (["a/__key__.png"], "a/__key__"),
    (["K.png"], "K"),
    (["k.PNG"], "k"),
]


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_odd_names_as_shards_and_webdataset_read_them(tmp_path, style):
    image = image_bytes(tmp_path, 1)
    contents = {"json": b"{}", "caption": b"cat", "txt": b"dog", "rst": b"", "gz": b"x"}
    members = [name for names, _ in ODD for name in names]
    members += ["__meta__/x.png", "__info__", ".hidden.png", "noextension", "folder/noextension"]
    with tarfile.open(tmp_path / "a.tar", "w", format=style) as tar:
        for name in members:
            content = contents.get(name.rpartition(".")[2], image)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    raws = hold_against_shards_without_lr(tmp_path / "a.tar", tmp_path)
    assert [raw.key for raw in raws] == [key for _, key in ODD]
    theirs = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in theirs] == [raw.key for raw in raws]
    for raw, sample in zip(raws, theirs, strict=True):
        assert raw.fields["hr"] == sample.get("hr.png", sample.get("png"))


def hold_against_shards_without_lr(path, cache):
    """Shards wants an LR for all samples or for none: compare keys and images alone."""
    from datamodules.shards.index import build_index

    index = build_index(path)
    raws, notes = read(path)
    assert not notes
    kept = {raw.key: raw for raw in raws}
    data = path.read_bytes()
    for key, members in zip(index.keys, index.members, strict=True):
        member = members.get("hr.png", members.get("png"))
        assert kept[key].fields["hr"] == data[member.offset : member.offset + member.size]
    assert list(kept) == index.keys
    return raws


def test_where_webdatasets_rule_is_not_followed(tmp_path):
    """A leading ./ is no part of a key, hidden files are no samples, and reserved names no members.

    webdataset gives the keys ./a and b/, and refuses the third tar.
    """
    image = image_bytes(tmp_path, 1)
    for name, members, keys in (
        ("dots", ["./a.png", "./a.txt", "./b/c.png"], ["a", "b/c"]),
        ("hidden", ["b/c.png", "b/._c.png", "b/.png", "b/d.png"], ["b/c", "b/d"]),
        ("reserved", ["a.__key__", "a.png", "a.__url__", "b.png"], ["a", "b"]),
        ("empty", ["a.png", "a.", "b.png"], ["a", "b"]),
    ):
        content = [(n, b"a cat" if n.endswith("txt") else image) for n in members]
        path = write(tmp_path / f"{name}.tar", content)
        raws, notes = read(path)
        ours = Shards(str(path), index_cache=str(tmp_path))
        ours.prepare(2.0)
        assert [raw.key for raw in raws] == list(ours.keys) == keys
        assert not notes


@given(st.text(alphabet="ab.A/_é", max_size=12))
def test_keys_follow_webdatasets_rule(name):
    found = split_name(name)
    key, suffix = base_plus_ext(name.removeprefix("./"))
    hidden = key is None or key.endswith("/")
    if METADATA.match(name) or hidden or not suffix or suffix.startswith("__"):
        assert found is None
    else:
        assert found == (key, suffix.lower())


def test_same_samples_as_webdataset(data_root):
    path = data_root / "cifar10" / "test-automobile-000.tar"
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False))
    raws, _ = read(path)
    assert [raw.key for raw in raws] == [sample["__key__"] for sample in theirs]
    assert [raw.fields["hr"] for raw in raws] == [sample["jpg"] for sample in theirs]


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_pickles_are_passed_over(tmp_path):
    evil = pickle.dumps(Evil())
    write(
        tmp_path / "a.tar", [("a.pyd", evil), ("a.png", image_bytes(tmp_path, 0)), ("a.pkl", evil)]
    )
    ((raw,), _) = read(tmp_path / "a.tar")
    assert set(raw.fields) == {"hr"}


def test_in_webdatasets_secure_mode(even, monkeypatch):
    """Which opens no local files itself, no commands, and no pickles."""
    monkeypatch.setattr("webdataset.utils.enforce_security", True)  # as $WDS_SECURE does
    with pytest.raises(ValueError, match="cannot open local files"):
        webdataset.gopen(f"{even}/0.tar")
    made = Stream(32, f"{even}/{{0..7}}.tar")
    assert len(set(keys_of(batches(module(made), [(0, 0)])))) == 32


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/../../b.png"], "leads out of its folder"),
        (["/etc/b.png"], "leads out of its folder"),
        (["a.png", "a.png"], r"in one sample: 'a\.png' and 'a\.png'; remove"),
        (["a.png", "a.PNG"], r"in one sample: 'a\.png' and 'a\.PNG'; remove"),
        (["a.png", "b.png", "a.txt"], r"lie apart: 'a\.txt' comes after other samples"),
        (["a.txt", "b.png", "a.png"], r"lie apart: 'a\.png' comes after other samples"),
        (["a.png", "b.png", "./a.png"], r"lie apart: '\./a\.png' comes"),
        (["a.hr.png", "b.hr.png", "a.lr.png"], "lie apart: .* tar --sort=name -cf .*sorted-a"),
        (["a.png", "a.jpg"], "'a': it has several hr members"),
    ],
)
def test_names_that_are_refused(tmp_path, names, message):
    write(tmp_path / "a.tar", [(name, b"x") for name in names])
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.tar")


def test_the_command_of_the_refusal_sorts_the_tar(tmp_path):
    folder = tmp_path / "it's here"
    folder.mkdir()
    members = [
        (f"{key}.{kind}.png", image_bytes(tmp_path, n, size=(8, 8) if kind == "hr" else (4, 4)))
        for kind in ("lr", "hr")
        for n, key in enumerate(["b", "a-b", "a", "c/d"])
    ]
    path = write(folder / "apart.tar", members)
    data = module(Stream(4, str(path), shuffle=0), batch_size=1, streams=1, crop_size=8)
    with pytest.raises(ValueError, match="Stream reads from front to back") as refused:
        batches(data, [(0, 0)])
    command = str(refused.value).split("`")[1]
    subprocess.run(command, shell=True, check=True)
    raws, _ = read(folder / "sorted-apart.tar")
    assert sorted(raw.key for raw in raws) == ["a", "a-b", "b", "c/d"]
    assert all(raw.fields.keys() == {"hr", "lr"} for raw in raws)


def test_the_command_loses_no_member_that_comes_twice(tmp_path):
    members = [("a.png", b"first"), ("b.png", b"x"), ("a.png", b"second")]
    path = write(tmp_path / "twice.tar", members)
    with pytest.raises(ValueError, match="lie apart") as refused:
        read(path)
    ran = subprocess.run(str(refused.value).split("`")[1], shell=True, capture_output=True)
    assert ran.returncode != 0
    assert b"a.png" in ran.stderr
    assert not (tmp_path / "sorted-twice.tar").exists()


@pytest.mark.parametrize("name", ["12:30.tar", "-x.tar"])
def test_the_command_reads_every_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, [("a.png", b"1"), ("b.png", b"2"), ("a.txt", b"3")])
    subprocess.run(sort_command(name), shell=True, check=True)
    raws, _ = read(f"./sorted-{name}")
    assert [raw.key for raw in raws] == ["a", "b"]


def test_a_command_whose_samples_lie_apart(tmp_path):
    path = write(tmp_path / "a.tar", [(f"{n}.png", b"x") for n in "abca"])
    with pytest.raises(ValueError, match=r"save it as shard\.tar and sort it by `mkdir shard"):
        read(f"pipe:cat {path}")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_refused(tmp_path, kind):
    """webdataset passes over them: their samples would be lost in silence."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, of in (("README", kind), ("a.png", tarfile.REGTYPE), ("b.png", kind)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = of, "/etc/passwd"
            tar.addfile(member)
    with pytest.raises(ValueError, match=r"a\.tar has a member 'b\.png' that is a link to '/etc/p"):
        read(tmp_path / "a.tar")


# ------------------------------------------------------------------------------------------- broken


def test_an_unreadable_image_is_replaced_by_the_next_one(tmp_path):
    image = image_bytes(tmp_path, 0, size=(20, 20))
    members = [(f"{n}.png", image[:100] if n in (2, 3) else image) for n in range(8)]
    write(tmp_path / "a.tar", members)
    data = module(Stream(6, f"{tmp_path}/a.tar", shuffle=0), batch_size=1, streams=1)
    assert keys_of(batches(data, [(0, 0)])) == [f"train/{n}" for n in (0, 1, 4, 5, 6, 7)]
    assert data.tally.reasons == {"truncated": 2}
    assert data.tally.failed == 1  # of six places: the other image was to replace one
    assert any("a.tar: 2" in message for message in data.tally.images.values())


def test_the_sample_after_a_broken_tar_tells_of_it(tars):
    data = module(source(tars, samples=32, shuffle=0), batch_size=1, streams=1)
    batches(data, [(0, 0)])
    assert any("t6.tar is truncated at byte" in m for m in data.tally.images.values())


def test_too_many_stop_the_run(tars):
    data = module(source(tars), unreadable_limit=0.0)
    with pytest.raises(ValueError, match=r"could not be read .* more than the 0 that"):
        batches(data)


def test_small_images_are_skipped(tmp_path):
    members = [(f"{n}.png", image_bytes(tmp_path, n, size=(9 + n, 20))) for n in range(14)]
    write(tmp_path / "a.tar", members)
    made = Stream(14, f"{tmp_path}/a.tar", shuffle=0)
    data = module(made, batch_size=2, streams=1, small="skip")
    seen = keys_of(batches(data, [(0, 0)]))
    assert seen == [f"train/{n}" for n in range(7, 14)] * 2
    assert data.tally.unreadable == 0
    assert data.tally.reasons["small"] == 14


def cut(data: bytes, offset: int) -> bytes:
    return data[:offset]


def flipped(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 255]) + data[offset + 1 :]


@pytest.mark.parametrize(
    ("damage", "where", "given", "reason"),
    [
        (cut, 0, 0, "truncated"),
        (cut, 300, 0, "truncated"),  # within the first header
        (cut, 512 + 40, 0, "truncated"),  # within the first image
        (cut, 1024, 0, "truncated"),  # where a tar could end: its last sample may not be whole
        (cut, 1024 + 700, 0, "truncated"),  # what comes next decides whether a sample is whole
        (cut, 1024 + 300, 0, "truncated"),
        (flipped, 1024 + 10, 0, "damaged"),  # the second header
        (flipped, 2048 + 10, 1, "damaged"),  # the last one
        (flipped, 10, 0, "damaged"),
    ],
)
@pytest.mark.parametrize("more", [0, 300_000])
def test_tars_that_are_not_whole(tmp_path, damage, where, given, reason, more):
    """Samples of one image each, of one block each; perhaps after a long one."""
    first = [("long.png", b"y" * more)] if more else []
    path = write(tmp_path / "a.tar", [*first, *((f"{n}.png", b"x" * 400) for n in range(3))])
    before = (512 + -(-more // 512) * 512) if more else 0
    path.write_bytes(damage(path.read_bytes(), before + where))
    next_one = write(tmp_path / "b.tar", [("2.png", b"x")])
    raws, (note,) = read(path, next_one)
    assert len(raws) == given + (more > 0 and where >= 1024) + 1
    assert raws[-1].shard == str(next_one)
    assert note.reason == reason
    assert f"a.tar is {reason} at byte" in note.message


def test_a_sample_of_which_a_part_is_missing_is_not_given(tmp_path):
    path = write(tmp_path / "a.tar", [("a.png", b"x"), ("b.hr.png", b"x"), ("b.lr.png", b"x" * 99)])
    path.write_bytes(path.read_bytes()[: 5 * 512 + 50])
    raws, notes = read(path, write(tmp_path / "b.tar", [("b.png", b"other")]))
    assert [(raw.key, raw.fields["hr"]) for raw in raws] == [("a", b"x"), ("b", b"other")]
    assert len(notes) == 1


def test_a_tar_with_large_records(tmp_path):
    """As ``tar -b 128`` ends it: with 64 KiB of zeros."""
    path = write(tmp_path / "a.tar", [("a.png", b"x")])
    path.write_bytes(path.read_bytes().ljust(1 << 16, b"\0"))
    raws, notes = read(path)
    assert (len(raws), notes) == (1, [])
    path.write_bytes(flipped(path.read_bytes(), 10))
    assert read(path)[1][0].reason == "damaged"


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_tar_that_is_compressed(tmp_path, mode):
    with tarfile.open(tmp_path / "a.tar", mode) as tar:
        for name in ("a.png", "b.png"):
            tar.addfile(tarfile.TarInfo(name))
    raws, (note,) = read(tmp_path / "a.tar")
    assert not raws
    assert "is it compressed, or no tar" in note.message


def test_a_member_of_a_huge_size(tmp_path):
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("a.png")
    info.size = 1 << 50
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    raws, (note,) = read(path)
    assert not raws
    assert note.reason == "truncated"


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
            _, notes = read(tmp_path / "b.tar")
            ends["broken" if notes else "whole"] += 1
        except ValueError:
            ends["refused"] += 1
    assert ends["broken"] > 100
    assert ends["whole"] > 10


@pytest.mark.parametrize("content", ["nothing", "no image", "no tar"])
def test_a_set_without_samples(tmp_path, content):
    path = write(tmp_path / "a.tar", [("a.txt", b"x")] if content == "no image" else [])
    if content == "no tar":
        path.write_bytes(b"<html>" * 1000)
    data = module(Stream(10, str(path)), batch_size=2, streams=1)
    message = "is damaged" if content == "no tar" else "no images in it"
    with pytest.raises(ValueError, match=f"Stream.urls: no samples in a pass .*{message}"):
        batches(data, [(0, 0)])


# ---------------------------------------------------------------------------------- servers, pipes


def test_servers_give_the_same(tars, uninterrupted):
    with serving(tars) as server:
        data = module(source(tars, urls=f"{server.url}/t{{0..6}}.tar"))
        same(batches(data), uninterrupted[0])
        assert data.tally.reasons == uninterrupted[1]


def test_a_broken_connection_and_a_missing_tar_are_counted(even):
    with serving(even) as server:
        server.faults = ["cut"]
        raws, notes = read(f"{server.url}/0.tar", f"{server.url}/none.tar?secret", even / "1.tar")
    assert {raw.key for raw in raws} >= {f"e{n}" for n in range(4, 8)}
    assert [note.reason for note in notes] == ["unreadable tar"] * 2
    assert "ended with status 18" in notes[0].message
    assert "none.tar?... cannot be read on from byte 0: its command ended" in notes[1].message
    assert "secret" not in str(notes)


def piped(command, **options):
    return Stream(
        **{"samples": 24, "urls": f"pipe:{command}", "shuffle": 9, "allow_pipes": True} | options
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_pipes_give_the_same(tars, uninterrupted, workers):
    data = module(piped(f"cat {tars}/t{{0..6}}.tar"), workers=workers)
    same(batches(data), uninterrupted[0])


def test_pipes_are_refused_by_default(tars):
    data = module(piped(f"cat {tars}/t{{0..6}}.tar", allow_pipes=False))
    with pytest.raises(ValueError, match=r"set Stream\.allow_pipes: true if you trust"):
        data.setup("fit")


@pytest.mark.parametrize("then", ["; exit 3", " | head -c 700; exit 3"])
def test_a_command_that_fails_is_no_short_tar(tars, then):
    raws, (note,) = read(f"pipe:cat {tars}/t0.tar{then}")
    assert len(raws) < 2  # not the last sample of which the tar is known
    assert note.reason == "unreadable tar"
    assert "ended with status 3" in note.message


def test_a_tar_that_is_removed(even, tmp_path):
    raws, (note,) = read(tmp_path / "gone.tar", even / "0.tar")
    assert len(raws) == 4
    assert "gone.tar cannot be read on from byte 0: No such file" in note.message


# ---------------------------------------------------------------------------- pipelines of a user


def test_a_pipeline_of_webdataset(even):
    urls = [str(path) for path in sorted(even.glob("*.tar"))]
    pipeline = webdataset.WebDataset(urls, shardshuffle=8, seed=1).shuffle(10, seed=1)
    seen = keys_of(batches(module(Stream(16, pipeline=pipeline), workers=2)))
    assert len(seen) == 48
    # It is read on from epoch to epoch: two of 16 go through all 32.
    assert sorted(seen[:32]) == sorted(f"train/e{n}" for n in range(32))


def decode_it(sample, how):
    image = Image.open(io.BytesIO(sample["png"]))
    return {"__key__": sample["__key__"], "hr": image if how == "PIL" else np.asarray(image)}


@pytest.mark.parametrize("how", ["PIL", "NumPy", "decode"])
def test_a_pipeline_that_decodes(even, how):
    urls = [f"{even}/0.tar"]
    data = webdataset.WebDataset(urls, shardshuffle=False)
    data = data.decode("pil") if how == "decode" else data.map(partial(decode_it, how=how))
    made = module(Stream(4, pipeline=data), batch_size=4, crop_size=16, flips=False)
    plain = module(Stream(4, f"{even}/0.tar", shuffle=0), batch_size=4, crop_size=16, flips=False)
    same(batches(made, [(0, 0)]), batches(plain, [(0, 0)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.to_tuple("png"), "gave a tuple that is no sample"),
        (lambda data: data.batched(2), "gave a dict that is no sample"),
        (
            lambda data: data.rename(hr="png").map(lambda s: {**s, "hr": 3}),
            "gave hr as int; expected",
        ),
        (lambda data: data.select(lambda s: False), "pipeline: no samples in a pass of worker 0"),
    ],
)
def test_a_pipeline_that_gives_something_else(even, change, message):
    pipeline = change(webdataset.WebDataset([f"{even}/0.tar"], shardshuffle=False))
    with pytest.raises(ValueError, match=message):
        batches(module(Stream(8, pipeline=pipeline)), [(0, 0)])


def test_an_endless_pipeline_without_images(monkeypatch):
    monkeypatch.setattr(stream, "MOST_LEFT_OUT", 50)
    pipeline = webdataset.DataPipeline(webdataset.MockDataset({"__key__": "a", "txt": b"x"}, 10**9))
    with pytest.raises(ValueError, match="50 samples in a row have no image"):
        batches(module(Stream(8, pipeline=pipeline)), [(0, 0)])


# ---------------------------------------------------------------------------------------- refusals


def test_fewer_tars_than_processes(tars, caplog):
    made = source(tars, urls=f"{tars}/t{{0..1}}.tar")
    with pytest.raises(ValueError, match=r"2 tars, fewer than the 4 processes"):
        batches(module(made), rank=0, world=4)
    data = module(made, workers=4)
    data.setup("fit")
    assert data.train_dataloader().num_workers == 2
    assert "2 tars for 1 processes: each of these has 2 workers, not 4" in caplog.text


def test_no_tars(tmp_path):
    with pytest.raises(ValueError, match=r"Stream\.urls .* do not exist or match no file"):
        module(Stream(10, f"{tmp_path}/*.tar")).setup("fit")
    with pytest.raises(ValueError, match=r"Stream\.urls is empty"):
        module(Stream(10, [])).setup("fit")


def test_settings_that_do_not_fit(tars):
    with pytest.raises(ValueError, match=r"samples is 7 .*batch_size 8: raise samples"):
        module(source(tars, samples=7)).setup("fit")
    with pytest.raises(ValueError, match=r"Stream\.samples is 0"):
        source(tars, samples=0)
    for both in ({}, {"urls": "a.tar", "pipeline": webdataset.DataPipeline()}):
        with pytest.raises(ValueError, match=r"exactly one of Stream\.urls and Stream\.pipeline"):
            Stream(8, **both)


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
    with pytest.raises(ValueError, match=r"read from front to back.*use datamodules\.Shards"):
        data.setup(stage)


def test_a_checkpoint_of_another_order_is_refused(tars):
    def state(**options):
        data = module(source(tars, **options))
        data.setup("fit")
        return data

    saved = state().state_dict()
    state().load_state_dict(saved)
    for options, message in (({"shuffle": 40}, "shuffle was 9, now"), ({"samples": 32}, "number")):
        with pytest.raises(ValueError, match=message):
            state(**options).load_state_dict(saved)
    with pytest.raises(ValueError, match="hash of the names"):
        state(urls=f"{tars}/t{{0..5}}.tar").load_state_dict(saved)


# --------------------------------------------------------------------------------------- Lightning


@pytest.mark.parametrize("workers", quick([0, 2], 2))
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
