"""Remote shards: read despite failures, kept in a cache with a limit, and clear errors."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
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
from tests.datamodules.server import Server, serving

CONTENT = bytes(range(256)) * 20_000  # 5 MB
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(remote, "CHUNK", 1 << 20)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of f.bin, and of two tars with their indices, of 3 and 2 images."""
    root = tmp_path / "served"
    root.mkdir()
    (root / "f.bin").write_bytes(CONTENT)
    for shard, numbers in enumerate([(0, 1, 2), (3, 4)]):
        members = {f"k{number}.png": image_bytes(number) for number in numbers}
        indexed(write_tar(root / f"t-{shard:03d}.tar", members))
    with serving(root) as state:
        yield state


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Shards]:
    def prepare(urls: Any, **options: Any) -> Shards:
        folders = {"index_cache": f"{tmp_path}/indices", "cache_dir": f"{tmp_path}/cache"}
        source = Shards(urls, **folders | options)
        source.prepare(2.0)
        return source

    return prepare


def check(source: Shards, count: int = 5) -> None:
    for index in range(count):
        np.testing.assert_array_equal(source.read(index)["hr"], pixels(seed=index))


def first_keys(urls: list[str]) -> list[str]:
    """The keys of the first three samples that `Stream` gives."""
    stream = Stream(1, urls, shuffle=0)
    stream.prepare(2.0)
    raws = stream.raws(stream.plan(0, 1, 1, 1), 0, 0, [])
    return [next(raws).key for _ in range(3)]


# -------------------------------------------------------------------------------------- addresses

SIGNED = [  # by S3, Google, Azure, CloudFront, and others
    "/b/t.tar?X-Amz-Credential=AK%2F2026%2Fs3&X-Amz-Signature=0f",
    "/b/t.tar?sv=2026&sig=x+y/z==&se=2026-01-01T00:00:00Z",
    "/b/t.tar?name=UTF-8''t%C3%A4.tar&of=*&to=a::b",
    "/b%2Fc/~user/%7Eother/t.tar?a='1'&b=(2)&c=%e4;d",
    "/b/t+1%20.tar",
]


@pytest.mark.parametrize("target", SIGNED)
def test_an_address_is_sent_as_it_is_written(server, prepared, target):
    server.signed[target] = "t-000.tar"
    address = f"{server.url}{target}"
    check(prepared([address]), 3)
    assert prepared([address], cache_size=0).keys == ["k0", "k1", "k2"]
    assert look_up(address).size == (server.root / "t-000.tar").stat().st_size
    assert first_keys([address]) == ["k0", "k1", "k2"]


@pytest.mark.parametrize("host", [True, False])
def test_a_redirection_is_followed_as_it_is_written(server, prepared, host):
    target = SIGNED[3]
    server.signed[target] = "t-000.tar"
    server.redirects["/here.tar"] = f"{server.url}{target}" if host else target
    check(prepared([f"{server.url}/here.tar"]), 3)
    assert first_keys([f"{server.url}/here.tar"]) == ["k0", "k1", "k2"]


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("/a b/ü.tar", "/a%20b/%C3%BC.tar"),
        ("/a.tar?b=c d", "/a.tar?b=c+d"),
        ("/100%.tar", "/100%.tar"),
    ],
)
def test_what_no_request_may_hold_is_escaped(server, written, sent):
    server.signed[sent] = "f.bin"
    assert read_small(f"{server.url}{written}") == CONTENT


def test_secrets_are_not_shown():
    address = "https://me:secret@host/a.tar?X-Amz-Signature=secret"
    assert hide_secrets(address) == "https://host/a.tar?..."


# ------------------------------------------------------------------------------- parts and failures


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_of_a_file_is_read(server, ranges):
    server.ranges = ranges
    url = f"{server.url}/f.bin"
    assert read_range(url, 300, 5) == CONTENT[300:305]
    assert read_range(url, len(CONTENT) - 10, 20) == CONTENT[-10:]


@pytest.mark.parametrize("faults", [[], [503, 500], [None, "cut", "cut"], ["stall"], [429, "cut"]])
def test_a_file_is_read_despite_failures(server, monkeypatch, faults):
    monkeypatch.setattr(remote, "STALL", 0.5)
    server.faults = [*faults]
    with open_remote(f"{server.url}/f.bin") as file:
        assert file.read() == CONTENT
    failures = [fault for fault in faults if fault is not None]
    assert server.got("f.bin") == 5 + len(failures)  # parts of 1 MB, each until it came


@pytest.mark.parametrize(
    ("ranges", "size"), [(True, 2 << 20), (True, 100), (False, (1 << 20) + 1), (False, 100)]
)
def test_a_file_of_any_size_is_read(server, ranges, size):
    server.ranges = ranges
    (server.root / "f.bin").write_bytes(CONTENT[:size])
    with open_remote(f"{server.url}/f.bin") as file:
        assert file.read() == CONTENT[:size]
    if not ranges:
        assert server.got("f.bin") == 1


def test_a_server_that_stalls_has_a_limit(server, monkeypatch):
    monkeypatch.setattr(remote, "STALL", 0.3)
    monkeypatch.setattr(remote, "DEADLINE", 0.5)
    server.always = "stall"
    with pytest.raises(RemoteError, match=r"f\.bin cannot be read: attempt \d failed .*Timeout"):
        read_range(f"{server.url}/f.bin", 0, 5)


def test_what_needs_a_login_is_not_tried_again(server):
    server.always = 403
    with pytest.raises(RemoteError, match="403, message=") as caught:
        read_range(f"{server.url}/f.bin?key=secret", 0, 5)
    assert "secret" not in str(caught.value)
    assert len(server.requests) == 1


def test_errors_reach_the_trainer_from_a_worker():
    error = pickle.loads(pickle.dumps(RemoteError("it is gone")))
    assert type(error) is RemoteError
    assert str(error) == "it is gone"


# ----------------------------------------------------------------------------------------- shards


def test_shards_over_http(server, prepared):
    source = prepared(f"{server.url}/t-*.tar")  # listed by the server
    assert source.keys == ["k0", "k1", "k2", "k3", "k4"]
    assert source.size(4) == pixels().shape[:2]
    assert server.got("t-000.tar") == 0  # the index beside it was enough
    check(source)
    check(source)
    assert server.got("t-000.tar") == server.got("t-001.tar") == 1
    assert source.read(0)["meta"]["path"] == f"{server.url}/t-000.tar"


def test_indices_and_shards_are_kept_for_the_next_run(server, prepared):
    check(prepared(f"{server.url}/t-{{000..001}}.tar"))
    server.requests.clear()
    check(prepared(f"{server.url}/t-{{000..001}}.tar"))
    assert [method for method, *_ in server.requests] == ["HEAD", "HEAD"]


@pytest.mark.parametrize(
    ("text", "change"),
    [("]", ""), ('"size":', '"size":9'), ('"version":2', '"version":1')],
    ids=["damaged", "of another tar", "of another version"],
)
def test_a_wrong_index_beside_a_shard_is_made_again(server, prepared, text, change):
    index = server.root / "t-000.tar.idx.json"
    index.write_text(index.read_text().replace(text, change))
    check(prepared(f"{server.url}/t-{{000..001}}.tar"))
    assert server.got("t-000.tar") == 1


def test_a_shard_may_change_between_two_runs(server, prepared):
    check(prepared(f"{server.url}/t-{{000..001}}.tar"))
    indexed(write_tar(server.root / "t-001.tar", {"n3.png": image_bytes(3)}))
    source = prepared(f"{server.url}/t-{{000..001}}.tar")
    assert source.keys == ["k0", "k1", "k2", "n3"]
    check(source, 4)


def test_half_an_image_is_not_cropped_above_the_damage(server, prepared):
    """The crop would decode; the image as a whole does not. The tar has no index."""
    half = encoded(pixels((64, 64)), "JPEG")
    write_tar(server.root / "t.tar", {"k.jpg": half[: len(half) // 2]})
    source = prepared(f"{server.url}/t.tar")
    with pytest.raises(UnreadableImage):
        TrainingImages(source, "train", 2.0, 16, True)[Item(0, 0, 0, 0)]


def test_the_intact_part_of_a_truncated_shard_is_read(server, prepared):
    source = prepared(f"{server.url}/t-{{000..001}}.tar")
    offset = source._table.place("hr", 1).offset
    path = server.root / "t-000.tar"
    path.write_bytes(path.read_bytes()[: offset + 20])
    check(source, 1)
    with pytest.raises(UnreadableImage, match=r"t-000\.tar: k1: 20 of the") as caught:
        source.read(1)
    assert caught.value.reason == "truncated"
    np.testing.assert_array_equal(source.read(3)["hr"], pixels(seed=3))


class FakeStore(MemoryFileSystem):
    """A local object store under the name of a real one."""

    protocol = ("s3", "gs")
    store = {}  # noqa: RUF012  (fsspec's way)
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.removeprefix("s3://").removeprefix("gs://"))

    def unstrip_protocol(self, name: str) -> str:
        return f"s3://{name.lstrip('/')}"


@pytest.mark.parametrize("url", ["s3://bucket/t-{000,001}.tar", "gs://bucket/t-{000..001}.tar"])
def test_object_stores(server, prepared, monkeypatch, url):
    implementations = sys.modules["fsspec.registry"]._registry  # fsspec.registry is a view of it
    for scheme in ("s3", "gs"):
        monkeypatch.setitem(implementations, scheme, FakeStore)
    monkeypatch.setattr(FakeStore, "store", {})
    for path in server.root.iterdir():
        FakeStore().pipe(f"/bucket/{path.name}", path.read_bytes())
    check(prepared(url))
    assert first_keys([url]) == ["k0", "k1", "k2"]


# ------------------------------------------------------------------------------------------ cache

SIZE = 100_000


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Server]:
    """A server of f0 to f9, of 100,000 bytes each."""
    (tmp_path / "files").mkdir()
    for number in range(10):
        (tmp_path / "files" / f"f{number}").write_bytes(content(number))
    with serving(tmp_path / "files") as state:
        yield state


def content(number: int) -> bytes:
    return np.random.default_rng(number).bytes(SIZE)


def shard(server: Server, number: int) -> RemoteShard:
    return RemoteShard(f"{server.url}/f{number}", "v1", SIZE)


def cache_of(tmp_path: Path, files: int = 100, downloads: int = 0) -> ShardCache:
    return ShardCache(tmp_path / "cache", files * SIZE, downloads)


def names(tmp_path: Path) -> list[str]:
    """What is in the cache, without the hashes before the names."""
    return sorted(path.name[17:] for path in (tmp_path / "cache" / "enlarger-shards").iterdir())


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def test_the_least_recently_used_shard_goes_first(files, tmp_path):
    cache = cache_of(tmp_path, files=2)
    for number in (0, 1, 2, 0, 3):
        cache.fetch(shard(files, number))
        time.sleep(0.02)
    assert names(tmp_path) == ["f0", "f2", "f3"]


def test_a_shard_that_had_to_go_is_not_downloaded_again_soon(files, tmp_path, monkeypatch, caplog):
    cache = cache_of(tmp_path, files=1)
    for number in range(3):
        assert cache.fetch(shard(files, number))
        time.sleep(0.02)
    assert cache.fetch(shard(files, 0)) is None
    assert cache.fetch(shard(files, 0)) is None
    assert files.got("f0") == 1
    assert caplog.text.count("raise Shards.cache_size") == 1
    monkeypatch.setattr(cache_module, "RECENT", 0.0)
    assert cache.fetch(shard(files, 0))


def test_a_file_larger_than_the_cache_is_not_downloaded(files, tmp_path, caplog):
    cache = ShardCache(tmp_path / "cache", SIZE - 1)
    assert cache.fetch(shard(files, 0)) is None
    assert "raise Shards.cache_size" in caplog.text
    assert files.got("f0") == 0


def test_a_full_disk_is_left_alone(files, tmp_path, monkeypatch, caplog):
    cache = cache_of(tmp_path)

    def filled(url: str, dest: str, **_: Any) -> None:
        Path(f"{dest}.temp{os.getpid()}").write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("webdataset.cache.download", filled)
        assert cache.fetch(shard(files, 0)) is None
    assert names(tmp_path) == []
    assert cache.fetch(shard(files, 0)) is None  # not now
    assert "or its disk" in caplog.text


def test_files_of_others_are_not_removed(files, tmp_path):
    mine = tmp_path / "cache" / "mine.tar"
    mine.parent.mkdir()
    mine.write_bytes(b"x" * SIZE)
    cache = cache_of(tmp_path, files=1)
    for number in range(4):
        assert cache.fetch(shard(files, number)) is not None
    assert mine.stat().st_size == SIZE


def test_a_file_of_another_user_is_read(files, tmp_path, monkeypatch):
    path = cache_of(tmp_path).fetch(shard(files, 0))

    def refused(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(cache_module.os, "utime", refused)
    assert cache_of(tmp_path).fetch(shard(files, 0)) == path


def fetch_all(folder: Path, shards: list[Any], results: Any) -> None:
    cache = ShardCache(folder, 100 * SIZE)
    results.put([cache.fetch(RemoteShard(*shard)).read_bytes() for shard in shards])


def test_two_processes_download_a_file_once(files, tmp_path):
    shards = [tuple(shard(files, number)) for number in range(5)]
    results = FORK.Queue()
    arguments = (tmp_path / "cache", shards, results)
    processes = [FORK.Process(target=fetch_all, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for _ in processes:
        assert results.get(timeout=120) == [content(number) for number in range(5)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert [files.got(f"f{number}") for number in range(5)] == [1] * 5
    assert names(tmp_path) == ["f0", "f1", "f2", "f3", "f4"]


def test_what_a_killed_download_left_is_removed_for_room(files, tmp_path):
    files.always = "stall"
    process = FORK.Process(target=cache_of(tmp_path).fetch, args=(shard(files, 0),))
    process.start()
    try:
        until(lambda: names(tmp_path) == [f"f0.temp{process.pid}"])
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    files.always = None
    (left,) = (tmp_path / "cache" / "enlarger-shards").iterdir()
    left.write_bytes(b"x" * SIZE)

    cache = cache_of(tmp_path, files=1)
    for number in range(2):
        time.sleep(0.02)
        assert cache.fetch(shard(files, number)).read_bytes() == content(number)
    assert names(tmp_path) == ["f0", "f1"]


def test_the_next_shards_are_read_ahead(files, tmp_path):
    """Also by a copy in another process."""
    cache = cache_of(tmp_path, downloads=2)
    cache.read_ahead([shard(files, number) for number in (4, 5)])
    until(lambda: names(tmp_path) == ["f4", "f5"])
    assert pickle.loads(pickle.dumps(cache)).fetch(shard(files, 6))

    def work() -> None:
        cache.read_ahead([shard(files, 7)])
        until(lambda: "f7" in names(tmp_path))

    process = FORK.Process(target=work)
    process.start()
    process.join(120)
    assert process.exitcode == 0


SCRIPT = """
import sys, time
from pathlib import Path
from datamodules.shards.cache import ShardCache
from datamodules.shards import remote
from datamodules.shards.remote import RemoteShard
remote.STALL = 3600
cache = ShardCache(Path(sys.argv[1]), 10**8, 2)
cache.read_ahead([RemoteShard(sys.argv[2], "v1", 100_000)])
while not list(cache.folder.iterdir()):
    time.sleep(0.01)
"""


def test_a_process_ends_while_it_reads_ahead(files, tmp_path):
    files.always = "stall"
    command = [sys.executable, "-c", SCRIPT, tmp_path / "cache", f"{files.url}/f0"]
    subprocess.run(command, check=True, timeout=300)


def test_without_room_samples_come_from_the_server(server, prepared):
    source = prepared(f"{server.url}/t-{{000..001}}.tar", cache_size=1000)
    check(source)
    ranges = [asked for _, path, asked in server.requests if path == "/t-001.tar"]
    assert len(ranges) == 3  # its size, and two images
    assert all(asked.startswith("bytes=") for asked in ranges[1:])


def test_workers_fetch_each_shard_once(server, prepared):
    source = prepared(f"{server.url}/t-{{000..001}}.tar", read_ahead=1)
    source.upcoming([0])  # fsspec has begun its thread before the fork
    until(lambda: server.got("t-000.tar"))

    class Images:
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> np.ndarray:
            return source.read(index % 5)["hr"]

    loader = DataLoader(Images(), None, num_workers=2, multiprocessing_context="fork")
    for index, hr in enumerate(loader):
        np.testing.assert_array_equal(hr, pixels(seed=index % 5))
    assert server.got("t-000.tar") == server.got("t-001.tar") == 1


@pytest.mark.parametrize("damage", ["gone", "rotten"])
def test_a_cached_shard_that_is_damaged_is_fetched_again(server, prepared, tmp_path, damage):
    source = prepared(f"{server.url}/t-000.tar")
    check(source, 1)
    (path,) = (tmp_path / "cache" / "enlarger-shards").glob("*.tar")
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "rotten":
        data[600] ^= 1
        path.write_bytes(data)
    check(source, 1)
    assert server.got("t-000.tar") == 2


def test_a_file_as_long_as_a_request_ends_on_a_server_without_ranges(server):
    server.ranges = False
    (server.root / "f.bin").write_bytes(CONTENT[: 1 << 20])

    with open_remote(f"{server.url}/f.bin") as file:
        content = file.read(3 << 20)

    assert content == CONTENT[: 1 << 20]
