"""Stream: webdataset's pipeline gives each whole sample once an epoch, and counts broken tars."""

from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_equal
from webdataset.tariterators import base_plus_ext

from datamodules.shards import remote
from datamodules.shards.index import METADATA, split_name
from datamodules.shards.sample import decode_sample, raw_of
from datamodules.shards.shards import Shards
from datamodules.shards.stream import Stream, whole_samples
from tests.datamodules.image_files import image_bytes, pixels, write_tar
from tests.datamodules.memory import assert_same, data_of, keys_of, opened
from tests.datamodules.server import serving
from tests.quick import quick

IMAGE = image_bytes(seed=0, size=(20, 18))


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """8 tars of 4 images each: 0 to 31."""
    root = tmp_path_factory.mktemp("tars")
    for tar in range(8):
        numbers = range(4 * tar, 4 * tar + 4)
        write_tar(root / f"t{tar}.tar", {f"{n}.png": image_bytes(n, (20, 18)) for n in numbers})
    return root


def source(folder, urls="t{0..7}.tar", samples=32, shuffle=9):
    """By default a stream of the images of `tars`."""
    return Stream(samples, f"{folder}/{urls}", shuffle)


def data_module(train, **settings):
    return data_of(train, **{"batch_size": 8, "streams": 4, "unreadable_limit": 1.0} | settings)


def batches(data, places=((0, 0), (1, 0), (2, 0)), rank=0, world=1):
    """The batches of some epochs, each from some batch on, as one loader gives them."""
    data._rank_and_world = lambda: (rank, world)
    data.setup("fit")
    loader = data.train_dataloader()
    read = []
    for place in places:
        loader.batch_sampler.position = lambda at=place: at
        read += [data.on_before_batch_transfer(batch, 0) for batch in loader]
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()
    return read


def read(*urls):
    """The samples of tars, and what was skipped."""
    notes = []
    samples = whole_samples([{"url": str(url)} for url in urls], notes)
    return [raw_of(sample) for sample in samples], notes


# ------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_follows_from_the_seed(tars, workers):
    whole = batches(data_module(source(tars), workers=workers))
    repeated = batches(data_module(source(tars), workers=workers))
    resumed = batches(data_module(source(tars), workers=workers), places=[(1, 0), (2, 0)])
    of_another_seed = batches(data_module(source(tars), workers=workers, seed=1))

    assert_same(repeated, whole)
    assert_same(resumed, whole[4:])  # an epoch has 4 batches: 32 images, 8 in each
    assert keys_of(of_another_seed) != keys_of(whole)


# With 2 processes in each run; with 1 and 4 in nightly runs alone.
@pytest.mark.parametrize(("world", "workers"), quick([(1, 0), (2, 2), (4, 2)], 2))
def test_each_epoch_reads_every_sample_once_in_a_new_order(tars, world, workers):
    """World is the number of processes, which share the tars."""
    epochs = [[], [], []]  # the keys of all processes
    for rank in range(world):
        own = batches(data_module(source(tars), workers=workers), rank=rank, world=world)
        for epoch, keys in enumerate(epochs):
            keys += keys_of(own[4 * epoch : 4 * epoch + 4])  # an epoch has 4 batches

    for keys in epochs:
        assert sorted(keys) == sorted(f"train/{number}" for number in range(32))
    assert epochs[0] != epochs[1]
    assert epochs[1] != epochs[2]


def test_a_run_resumed_within_an_epoch_reads_its_rest_in_a_new_order(tars, caplog):
    """A pass over tars cannot begin in its middle. Samples of the first batch may come again."""
    places = [(1, 1), (2, 0)]  # epoch 1 from its batch 1 on, and epoch 2
    whole = batches(data_module(source(tars)))  # epochs 0, 1 and 2, of 4 batches each
    resumed = batches(data_module(source(tars)), places)
    repeated = batches(data_module(source(tars)), places)
    rest, next_epoch = resumed[:3], resumed[3:]
    rest_of_whole, next_of_whole = whole[5:8], whole[8:]

    assert "epoch 1 goes on at batch 1 of 4, and its other batches are read in a new" in caplog.text
    assert len(set(keys_of(rest))) == 24  # 3 batches of 8: all differ
    assert keys_of(rest) != keys_of(rest_of_whole)
    assert torch.equal(rest[0]["seed"], rest_of_whole[0]["seed"])  # of its place, not its image
    assert_same(next_epoch, next_of_whole)
    assert_same(repeated, resumed)


@pytest.mark.parametrize(("shuffle", "ordered"), [(0, True), (50, False)])
def test_samples_are_shuffled_within_a_tar_unless_shuffle_is_0(tmp_path, shuffle, ordered):
    write_tar(tmp_path / "one.tar", {f"{n:02}.png": IMAGE for n in range(100)})
    stream = source(tmp_path, "one.tar", samples=100, shuffle=shuffle)
    keys = keys_of(batches(data_module(stream, batch_size=1, streams=1), places=[(0, 0)]))
    assert len(set(keys)) == 100
    assert (keys == sorted(keys)) == ordered


# --------------------------------------------------------------------------------------- what is in


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_stream_reads_the_same_fields_as_shards_and_opens_no_pickle(tmp_path):
    tar = tmp_path / "w.tar"
    with webdataset.TarWriter(str(tar)) as writer:
        sample = {"__key__": "a/b", "hr.png": pixels(), "lr.png": pixels((4, 3)), "txt": "text"}
        sample |= {"text_features.npy": np.ones((2, 3), np.float32), "json": {"n": 1}}
        writer.write({**sample, "pyd": Evil()})
    shards = Shards(str(tar))
    shards.prepare(scale=2.0)

    ((raw,), notes) = read(tar)

    assert raw.key == "a/b"
    assert shards.keys[0] == "a/b"
    assert not notes
    assert_equal(decode_sample(raw, srgb=True), shards.read(0))


@given(st.text(alphabet="ab.A/_é", max_size=12))
def test_names_are_split_into_key_and_suffix_by_webdatasets_rule(name):
    """Except that hidden files, metadata, and suffixes such as `__key__` belong to no sample.

    Two spellings of a path, `a/x` and `./a//x`, are one key.
    """
    key, suffix = base_plus_ext(name)
    is_hidden = key is None or key.endswith("/")
    is_reserved = METADATA.match(name) or not suffix or suffix.startswith("__")
    if is_hidden or is_reserved:
        assert split_name(name) is None
    else:
        assert split_name(name) == (PurePosixPath(key).as_posix(), suffix.lower())


# ------------------------------------------------------------------------------------------- broken


def test_an_unreadable_image_is_replaced_by_the_next_one(tmp_path):
    members = {f"{n}.png": IMAGE for n in range(8)}
    members |= {"2.png": IMAGE[:100], "3.png": IMAGE[:100]}
    write_tar(tmp_path / "a.tar", members)
    stream = source(tmp_path, "a.tar", samples=6, shuffle=0)
    data = data_module(stream, batch_size=1, streams=1)

    keys = keys_of(batches(data, places=[(0, 0)]))

    assert keys == ["train/0", "train/1", "train/4", "train/5", "train/6", "train/7"]
    assert data.tally.reasons == {"truncated": 2}
    assert data.tally.failed == 1  # of six samples: the place of 2, where 3 was tried next
    assert "a.tar: 2: " in data.tally.images["train/2"]  # the tar, the image, and why


def cut(data, offset):
    return data[:offset]


def flipped(data, offset):
    return data[:offset] + bytes([data[offset] ^ 255]) + data[offset + 1 :]


@pytest.mark.parametrize(
    ("damage", "offset", "keys"),
    [
        pytest.param(cut, 0, [], id="empty"),
        pytest.param(cut, 300, [], id="ends in the first header"),
        pytest.param(cut, 512 + 40, [], id="ends in the first image"),
        pytest.param(cut, 1024, [], id="ends where a tar could end"),
        pytest.param(flipped, 10, [], id="first header damaged"),
        pytest.param(flipped, 1024 + 10, [], id="second header damaged"),
        pytest.param(flipped, 2 * 1024 + 10, ["0"], id="last header damaged"),
    ],
)
def test_whole_samples_of_a_broken_tar_are_read_and_it_is_counted(tmp_path, damage, offset, keys):
    """Not the last one before the damage, which may lack members.

    The tar has three samples of one image, of 1,024 bytes: a header and a block of content.
    """
    broken = write_tar(tmp_path / "a.tar", {f"{n}.png": b"x" * 400 for n in range(3)})
    broken.write_bytes(damage(broken.read_bytes(), offset))
    next_one = write_tar(tmp_path / "b.tar", {"2.png": b"x"})

    raws, (note,) = read(broken, next_one)

    assert [raw.key for raw in raws] == [*keys, "2"]
    assert raws[-1].shard == str(next_one)
    assert note.reason == "unreadable tar"
    assert "a.tar cannot be read to its end" in note.message


def test_a_sample_whose_tar_ends_between_its_members_is_left_out(tmp_path):
    """Nor is it joined with the sample of that name in the next tar."""
    broken = write_tar(tmp_path / "a.tar", {"a.hr.png": b"first", "a.lr.png": b"first"})
    broken.write_bytes(broken.read_bytes()[: 2 * 512])  # header and content of a.hr.png
    next_one = write_tar(tmp_path / "b.tar", {"a.hr.png": b"other"})

    raws, notes = read(broken, next_one)

    assert [raw.fields for raw in raws] == [{"hr": b"other"}]
    assert len(notes) == 1


def test_tars_without_images_are_refused(tmp_path):
    """Else passes would follow each other without an end."""
    write_tar(tmp_path / "a.tar", {"a.txt": b"x"})
    with pytest.raises(ValueError, match=r"Stream\.urls: no samples in a pass .*no images in it"):
        batches(data_module(source(tmp_path, "a.tar")))


def test_urls_of_which_none_is_a_tar_are_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"<html>" * 1000)
    with pytest.raises(ValueError, match=r"Stream\.urls: no samples in a pass .*to its end"):
        batches(data_module(source(tmp_path, "a.tar")))


# ---------------------------------------------------------------------------------- servers, pipes


def test_servers_give_the_same_as_files(tars):
    with serving(tars) as server:
        from_server = batches(data_module(source(server.url)))
    from_files = batches(data_module(source(tars)))
    assert_same(from_server, from_files)


def test_a_server_that_stalls_is_counted_and_the_other_tars_are_read(tars, monkeypatch):
    monkeypatch.setattr(remote, "STALL", 0.5)
    monkeypatch.setattr(remote, "DEADLINE", 0.1)
    with serving(tars) as server:
        server.always = "stall"
        urls = [f"{server.url}/t0.tar", f"{tars}/t1.tar"]
        stream = Stream(samples=8, urls=urls, shuffle=0)  # two passes over the 4 of t1.tar
        data = data_module(stream)
        keys = keys_of(batches(data, places=[(0, 0)]))

    assert set(keys) == {"train/4", "train/5", "train/6", "train/7"}  # of t1.tar
    assert data.tally.reasons.keys() == {"unreadable tar"}
    assert "Timeout" in str(data.tally.images)


def test_a_missing_tar_is_counted(tars):
    with serving(tars) as server:
        raws, (note,) = read(f"{server.url}/none.tar?secret", tars / "t1.tar")
    assert [raw.key for raw in raws] == ["4", "5", "6", "7"]
    assert note.reason == "unreadable tar"
    assert "none.tar?... cannot be read: attempt 1 failed (" in note.message
    assert "secret" not in str(note)


def test_pipes_give_the_same_as_files(tars):
    piped = source(f"pipe:cat {tars}")
    piped.allow_pipes = True
    from_pipes = batches(data_module(piped, workers=1))
    from_files = batches(data_module(source(tars), workers=1))
    assert_same(from_pipes, from_files)


@pytest.mark.parametrize("command", ["cat {}; exit 3", "head -c 700 {}; exit 3"])
def test_the_tar_of_a_command_that_fails_is_counted_as_unreadable(tars, command):
    """At its end or, with 700 bytes, within the first of its four samples."""
    raws, (note,) = read(f"pipe:{command.format(tars / 't0.tar')}")
    # How many are read depends on when webdataset sees the command's status; the last one never is.
    assert len(raws) < 4
    assert note.reason == "unreadable tar"


# ---------------------------------------------------------------------------------------- refusals


def test_more_processes_than_tars_are_refused(tars):
    with pytest.raises(ValueError, match=r"2 tars, fewer than the 4 processes"):
        batches(data_module(source(tars, "t{0..1}.tar")), rank=0, world=4)


def test_there_are_no_more_workers_than_tars(tars):
    data = opened(source(tars, "t{0..1}.tar"), workers=4)
    assert data.train_dataloader().num_workers == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shuffle": 40}, r"init_args\.shuffle was 9, now it is 40"),
        ({"samples": 40}, r"number of images in .*train was \[32\], now it is \[40\]"),
        ({"urls": "t{0..5}.tar"}, "hash of the names of the images"),
    ],
)
def test_a_checkpoint_of_another_order_is_refused(tars, change, message):
    """Else a resumed run would silently see other samples than the uninterrupted one."""
    saved = opened(source(tars)).state_dict()
    opened(source(tars)).load_state_dict(saved)
    other = opened(source(tars, **change))
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(saved)
