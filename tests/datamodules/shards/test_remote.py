"""Remote shards: read despite failures, kept in a cache with a limit, and clear errors."""

import errno
import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from numpy.testing import assert_array_equal
from torch.utils.data import DataLoader

from datamodules.order.plan import Item
from datamodules.samples import TrainingImages
from datamodules.shards import cache as cache_module
from datamodules.shards import remote
from datamodules.shards.cache import ShardCache
from datamodules.shards.remote import (
    RemoteError,
    RemoteShard,
    hide_secrets,
    look_up,
    open_remote,
    read_range,
    read_small,
)
from datamodules.shards.shards import Shards
from datamodules.shards.stream import Stream
from files.images.decode import UnreadableImage
from tests.datamodules.image_files import encoded, image_bytes, indexed, pixels, write_tar
from tests.datamodules.server import serving

CONTENT = bytes(range(256)) * 20_000  # 5 MB
REQUEST = 1 << 20  # bytes of one request
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)  # seconds
    monkeypatch.setattr(remote, "CHUNK", REQUEST)


@pytest.fixture
def server(tmp_path):
    """A server of f.bin, and of two tars with their indices: of k0, k1 and k2, and of k3 and k4."""
    root = tmp_path / "served"
    root.mkdir()
    (root / "f.bin").write_bytes(CONTENT)
    for name, numbers in (("t-000.tar", (0, 1, 2)), ("t-001.tar", (3, 4))):
        indexed(write_tar(root / name, {f"k{n}.png": image_bytes(n) for n in numbers}))
    with serving(root) as state:
        yield state


@pytest.fixture
def prepared(server, tmp_path):
    """Shards by their names on the server, or by an address."""

    def prepare(name, **options):
        url = name if "://" in name else f"{server.url}/{name}"
        folders = {"index_cache": f"{tmp_path}/indices", "cache_dir": f"{tmp_path}/cache"}
        source = Shards(url, **folders | options)
        source.prepare(scale=2.0)
        return source

    return prepare


def check(source, count=5):
    for index in range(count):
        assert_array_equal(source.read(index)["hr"], pixels(seed=index))


def first_keys(url):
    """The keys of the first three samples that `Stream` gives."""
    stream = Stream(samples=1, urls=url, shuffle=0)
    stream.prepare(scale=2.0)
    plan = stream.plan(seed=0, batch_size=1, streams=1, repeats=1)
    raws = stream.raws(plan, epoch=0, start=0, notes=[])
    return [next(raws).key for _ in range(3)]


# -------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("/b/t.tar?X-Amz-Credential=AK%2F2026%2Fs3&X-Amz-Signature=0f", id="S3"),
        pytest.param("/b/t.tar?sv=2026&sig=x+y/z==&se=2026-01-01T00:00:00Z", id="Azure"),
        pytest.param("/b%2Fc/~user/%7Eother/t+1%20.tar?a='1'&b=(2)&c=%e4;d", id="others"),
    ],
)
def test_a_signed_address_is_sent_as_it_is_written(server, prepared, target):
    """Escaped otherwise, it would not be the address that was signed.

    This server refuses all targets but that one, to which its /here.tar redirects.
    """
    server.signed[target] = "t-000.tar"
    server.redirects["/here.tar"] = server.url + target
    for url in (server.url + target, f"{server.url}/here.tar"):
        check(prepared(url), count=3)
        assert first_keys(url) == ["k0", "k1", "k2"]
        assert look_up(url).size == (server.root / "t-000.tar").stat().st_size


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        pytest.param("/a b/ü.tar", "/a%20b/%C3%BC.tar", id="space and umlaut in the path"),
        pytest.param("/a.tar?b=c d", "/a.tar?b=c+d", id="space in the query, as in a form"),
        pytest.param("/100%.tar", "/100%.tar", id="a bare % stays"),
        pytest.param("/a%2Fb.tar?c=%3D+d", "/a%2Fb.tar?c=%3D+d", id="escapes stay"),
    ],
)
def test_only_characters_that_no_request_may_hold_are_escaped(server, written, sent):
    server.signed[sent] = "f.bin"  # given for this target alone; others are refused
    assert read_small(f"{server.url}{written}") == CONTENT


def test_secrets_are_not_shown():
    address = "https://me:secret@host/a.tar?X-Amz-Signature=secret"
    assert hide_secrets(address) == "https://host/a.tar?..."


# ------------------------------------------------------------------------------- parts and failures


@pytest.mark.parametrize("faults", [[503, 500], [None, "cut", "cut"], ["stall"], [429, "cut"]])
def test_a_file_is_read_despite_failed_requests(server, monkeypatch, faults):
    """Faults are the answers to the first requests, one each; the others get what they ask for.

    503, 500, 429: that status. cut, stall: half of the bytes, then the connection ends, or nothing
    comes any more. None: no fault.
    """
    monkeypatch.setattr(remote, "STALL", 0.5)
    server.faults = [*faults]
    with open_remote(f"{server.url}/f.bin") as file:
        assert file.read() == CONTENT
    failures = [fault for fault in faults if fault is not None]
    assert server.got("f.bin") == 5 + len(failures)  # 5 requests of 1 MB, each until it succeeds


@pytest.mark.parametrize("size", [100, REQUEST, REQUEST + 1, 2 * REQUEST])
@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_file_of_any_size_is_read_once(server, ranges, size):
    """A server without ranges sends the whole file at each request, again and again.

    Of a file as long as a request, that looks like the next part, and reading would never end.
    """
    server.ranges = ranges
    (server.root / "f.bin").write_bytes(CONTENT[:size])
    with open_remote(f"{server.url}/f.bin") as file:
        assert file.read(3 * REQUEST) == CONTENT[:size]  # all, and an end
    assert read_range(f"{server.url}/f.bin", offset=90, size=5) == CONTENT[90:95]


def test_reading_from_a_server_that_stalls_ends_at_the_deadline(server, monkeypatch):
    monkeypatch.setattr(remote, "STALL", 0.3)
    monkeypatch.setattr(remote, "DEADLINE", 0.5)
    server.always = "stall"
    with pytest.raises(RemoteError, match=r"f\.bin cannot be read: attempt \d failed .*Timeout"):
        read_range(f"{server.url}/f.bin", offset=0, size=5)


def test_what_needs_a_login_is_not_tried_again(server):
    server.always = 403
    with pytest.raises(RemoteError, match="403, message=") as caught:
        read_range(f"{server.url}/f.bin?key=secret", offset=0, size=5)
    assert "secret" not in str(caught.value)
    assert len(server.requests) == 1


# ----------------------------------------------------------------------------------------- shards


def test_shards_of_a_server_are_listed_indexed_and_downloaded_once(server, prepared):
    source = prepared("t-*.tar")  # listed by the server

    assert source.keys == ["k0", "k1", "k2", "k3", "k4"]
    assert source.size(4) == (6, 8)
    assert server.got("t-000.tar") == 0  # the index beside it was enough
    check(source)
    check(source)
    assert server.got("t-000.tar") == 1
    assert server.got("t-001.tar") == 1
    assert source.read(0)["meta"]["path"] == f"{server.url}/t-000.tar"


def test_indices_and_shards_are_kept_for_the_next_run(server, prepared):
    check(prepared("t-{000..001}.tar"))
    server.requests.clear()
    check(prepared("t-{000..001}.tar"))
    assert [method for method, *_ in server.requests] == ["HEAD", "HEAD"]  # whether they changed


@pytest.mark.parametrize(
    ("text", "change"),
    [("]", ""), ('"size":', '"size":9'), ('"version":2', '"version":1')],
    ids=["damaged", "of another tar", "of another version"],
)
def test_a_wrong_index_beside_a_shard_is_made_again(server, prepared, text, change):
    index = server.root / "t-000.tar.idx.json"
    index.write_text(index.read_text().replace(text, change))
    check(prepared("t-000.tar"), count=3)
    assert server.got("t-000.tar") == 1  # to make the index


def test_a_shard_may_change_between_two_runs(server, prepared):
    check(prepared("t-000.tar"), count=3)
    indexed(write_tar(server.root / "t-000.tar", {"n0.png": image_bytes(seed=0)}))
    source = prepared("t-000.tar")
    assert source.keys == ["n0"]
    check(source, count=1)


def test_a_damaged_download_is_downloaded_again(server, prepared):
    (server.root / "t.tar").write_bytes(b"no tar")
    for attempt in (1, 2):
        with pytest.raises(ValueError, match=rf"{server.url}/t\.tar"):
            prepared("t.tar")
        assert server.got("t.tar") == attempt


def test_half_an_image_is_unreadable_even_for_a_crop_above_the_damage(server, prepared):
    """Of an image that the packer has checked, rows below a crop are not decoded.

    This tar has no index of the packer's, so its image has to be decoded as a whole.
    """
    jpeg = encoded(pixels((64, 64)), "JPEG")
    write_tar(server.root / "t.tar", {"k.jpg": jpeg[: len(jpeg) // 2]})
    source = prepared("t.tar")
    crops = TrainingImages(source, "train", scale=2.0, crop_size=16, flips=True)
    for seed in range(20):  # of 64 rows, 32 are there: many crops of 16 lie within these
        with pytest.raises(UnreadableImage):
            crops[Item(image=0, seed=seed)]


def test_the_intact_part_of_a_truncated_shard_is_read(server, prepared):
    source = prepared("t-000.tar")
    tar = server.root / "t-000.tar"
    # It now ends 20 bytes behind the start of its second image.
    tar.write_bytes(tar.read_bytes()[: source._table.place("hr", 1).offset + 20])

    check(source, count=1)
    with pytest.raises(UnreadableImage, match=r"t-000\.tar: k1: 20 of the") as caught:
        source.read(1)
    assert caught.value.reason == "truncated"


class FakeStore(MemoryFileSystem):
    """A local object store under the name of a real one."""

    protocol = ("s3", "gs")
    store = {}  # noqa: RUF012  (fsspec's way)
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.removeprefix("s3://").removeprefix("gs://"))


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_shards_are_read_from_object_stores(server, prepared, monkeypatch, scheme):
    implementations = sys.modules["fsspec.registry"]._registry  # fsspec.registry is a view of it
    monkeypatch.setitem(implementations, scheme, FakeStore)
    monkeypatch.setattr(FakeStore, "store", {})
    for path in server.root.iterdir():
        FakeStore().pipe(f"/bucket/{path.name}", path.read_bytes())
    url = f"{scheme}://bucket/t-{{000..001}}.tar"
    check(prepared(url))
    assert first_keys(url) == ["k0", "k1", "k2"]


# ------------------------------------------------------------------------------------------ cache

SIZE = 100_000


@pytest.fixture
def files(tmp_path):
    """A server of f0 to f7, of 100,000 bytes each."""
    (tmp_path / "files").mkdir()
    for number in range(8):
        (tmp_path / "files" / f"f{number}").write_bytes(bytes([number]) * SIZE)
    with serving(tmp_path / "files") as state:
        yield state


def shard(server, number):
    return RemoteShard(f"{server.url}/f{number}", version="v1", size=SIZE)


def cache_of(tmp_path, files=100, downloads=0):
    return ShardCache(tmp_path / "cache", files * SIZE, downloads)


def names(tmp_path):
    """What is in the cache, without the hashes before the names."""
    return sorted(path.name[17:] for path in (tmp_path / "cache" / "enlarger-shards").iterdir())


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def test_the_least_recently_used_shard_goes_first(files, tmp_path):
    cache = cache_of(tmp_path, files=2)
    for number in (0, 1, 2, 0, 3):
        cache.fetch(shard(files, number))
        time.sleep(0.02)  # so that times of use differ
    assert names(tmp_path) == ["f0", "f2", "f3"]  # the newest comes on top of the two


def test_a_shard_that_had_to_go_is_not_downloaded_again_soon(files, tmp_path, monkeypatch, caplog):
    cache = cache_of(tmp_path, files=1)
    for number in range(3):
        assert cache.fetch(shard(files, number))
        time.sleep(0.02)  # so that times of use differ

    assert names(tmp_path) == ["f1", "f2"]  # the newest comes on top of the one
    assert cache.fetch(shard(files, 0)) is None
    assert cache.fetch(shard(files, 0)) is None
    assert files.got("f0") == 1
    assert caplog.text.count("raise Shards.cache_size") == 1  # the first time alone
    monkeypatch.setattr(cache_module, "RECENT", 0.0)
    assert cache.fetch(shard(files, 0))


def test_a_download_onto_a_full_disk_leaves_nothing_and_is_not_repeated_at_once(
    files, tmp_path, monkeypatch, caplog
):
    def filled(url, dest, **_):
        Path(f"{dest}.temp{os.getpid()}").write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = cache_of(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("webdataset.cache.download", filled)
        assert cache.fetch(shard(files, 0)) is None
    assert names(tmp_path) == []
    assert cache.fetch(shard(files, 0)) is None  # not tried again for RECENT seconds
    assert "or its disk" in caplog.text


def test_a_foreign_file_beside_the_cache_stays(files, tmp_path):
    """webdataset removes any old file of its folder, so that is one of its own."""
    foreign = tmp_path / "cache" / "foreign.tar"
    foreign.parent.mkdir()
    foreign.write_bytes(b"x" * SIZE)

    cache = cache_of(tmp_path, files=1)
    for number in range(4):
        cache.fetch(shard(files, number))

    assert foreign.read_bytes() == b"x" * SIZE


def test_of_two_processes_one_downloads_and_the_other_waits(files, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE", 1.0)
    files.faults = ["cut"]  # and a pause, in which the other process comes
    cache = cache_of(tmp_path)
    processes = [FORK.Process(target=cache.fetch, args=(shard(files, 1),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    (file,) = cache.folder.iterdir()
    assert file.read_bytes() == bytes([1]) * SIZE
    assert files.got("f1") == 2  # the request that was cut, and its repetition
    assert [process.exitcode for process in processes] == [0, 0]


def test_the_partial_file_of_a_killed_download_is_removed_when_room_is_needed(files, tmp_path):
    """Else such files would fill the disk, beside the shards that the cache counts."""
    files.always = "stall"
    process = FORK.Process(target=cache_of(tmp_path).fetch, args=(shard(files, 0),))
    process.start()
    until(lambda: names(tmp_path) == [f"f0.temp{process.pid}"])
    process.kill()
    process.join()
    files.always = None
    (partial,) = (tmp_path / "cache" / "enlarger-shards").iterdir()
    partial.write_bytes(b"x" * SIZE)  # as if it had come so far

    cache = cache_of(tmp_path, files=1)
    for number in range(2):
        time.sleep(0.02)  # so that times of use differ
        assert cache.fetch(shard(files, number)).read_bytes() == bytes([number]) * SIZE
    assert names(tmp_path) == ["f0", "f1"]  # the newest comes on top of the one


def test_the_next_shards_are_read_ahead(files, tmp_path):
    cache = cache_of(tmp_path, downloads=2)
    cache.read_ahead([shard(files, 4), shard(files, 5), shard(files, 6)])
    until(lambda: names(tmp_path) == ["f4", "f5", "f6"])


def read_ahead(cache, shards):
    cache.read_ahead(shards)
    until(lambda: list(cache.folder.iterdir()))


def test_a_process_ends_while_it_reads_ahead(files, tmp_path):
    """It does not wait for its downloads, which may take minutes."""
    files.always = "stall"  # for longer than the test waits
    arguments = (cache_of(tmp_path, downloads=2), [shard(files, 0)])
    process = FORK.Process(target=read_ahead, args=arguments)
    process.start()
    process.join(20)
    assert process.exitcode == 0


def test_without_room_samples_come_from_the_server(server, prepared, caplog):
    check(prepared("t-{000..001}.tar", cache_size=1000))  # bytes: less than a tar
    ranges = [asked for _, path, asked in server.requests if path == "/t-001.tar"]
    assert len(ranges) == 3  # its size, and two images
    assert all(asked.startswith("bytes=") for asked in ranges[1:])
    assert "raise Shards.cache_size" in caplog.text


def test_workers_fetch_each_shard_once(server, prepared):
    """Also if fsspec has a thread, which a fork does not inherit: here that of reading ahead."""
    source = prepared("t-{000..001}.tar", read_ahead=1)
    source.upcoming([0])
    until(lambda: server.got("t-000.tar"))

    order = [0, 3, 1, 4, 2] * 4  # numbers of samples, which the workers read by `collate_fn`
    loader = DataLoader(order, batch_size=None, num_workers=2, collate_fn=source.read)

    for index, sample in zip(order, loader, strict=True):
        assert_array_equal(sample["hr"], pixels(seed=index))
    assert server.got("t-000.tar") == 1
    assert server.got("t-001.tar") == 1


@pytest.mark.parametrize("damage", ["gone", "rotten"])
def test_a_cached_shard_that_is_damaged_is_fetched_again(server, prepared, tmp_path, damage):
    source = prepared("t-000.tar")
    check(source, count=1)
    (path,) = (tmp_path / "cache" / "enlarger-shards").iterdir()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(path.stat().st_size))
    check(source, count=1)
    assert server.got("t-000.tar") == 2
