"""The cache of remote shards: its limit, its users, and the remains of a killed process."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from torch.utils.data import DataLoader

from datamodules.shards import cache as cache_module
from datamodules.shards import remote
from datamodules.shards.cache import ShardCache
from datamodules.shards.remote import RemoteError, RemoteShard
from datamodules.shards.shards import Shards
from tests.datamodules.image_files import pixels
from tests.datamodules.server import serving
from tests.datamodules.shards.test_shards import image_bytes, indexed, write

SIZE = 100_000
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)


@pytest.fixture
def server(tmp_path):
    """Files f0 to f9 of 100,000 bytes."""
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as state:
        for number in range(10):
            (state.root / f"f{number}").write_bytes(content(number))
        yield state


def content(number, size=SIZE):
    return np.random.default_rng(number).bytes(size)


def shard(server, number):
    return RemoteShard(f"{server.url}/f{number}", "v1", SIZE)


def cache_of(tmp_path, files=100, downloads=0):
    return ShardCache(tmp_path / "cache", files * SIZE, downloads)


def names(tmp_path):
    return sorted(path.name[17:] for path in (tmp_path / "cache" / "enlarger-shards").iterdir())


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def test_a_file_of_another_user_is_read(server, tmp_path, monkeypatch):
    path = cache_of(tmp_path).fetch(shard(server, 0))

    def refused(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(cache_module.os, "utime", refused)
    assert cache_of(tmp_path).fetch(shard(server, 0)) == path


# ---------------------------------------------------------------------------------------- its limit


def test_least_recently_used_goes_first(server, tmp_path):
    cache = cache_of(tmp_path, files=2)
    for number in range(3):
        cache.fetch(shard(server, number))
        time.sleep(0.02)
    cache.fetch(shard(server, 0))  # used again
    time.sleep(0.02)
    cache.fetch(shard(server, 3))
    assert names(tmp_path) == ["f0", "f2", "f3"]


def test_a_shard_that_had_to_go_is_not_downloaded_again_soon(server, tmp_path, monkeypatch, caplog):
    cache = cache_of(tmp_path, files=1)
    for number in range(3):
        assert cache.fetch(shard(server, number))
        time.sleep(0.02)
    assert cache.fetch(shard(server, 0)) is None
    assert cache.fetch(shard(server, 0)) is None
    assert server.got("f0") == 1
    assert caplog.text.count("raise Shards.cache_size") == 1
    monkeypatch.setattr(cache_module, "RECENT", 0.0)
    assert cache.fetch(shard(server, 0))


@pytest.mark.parametrize("limit", [0, SIZE - 1])
def test_a_file_larger_than_the_cache(server, tmp_path, caplog, limit):
    cache = ShardCache(tmp_path / "cache", limit)
    assert cache.fetch(shard(server, 0)) is None
    assert "raise Shards.cache_size" in caplog.text
    assert server.got("f0") == 0


def test_a_full_disk_is_left_alone(server, tmp_path, monkeypatch, caplog):
    cache = cache_of(tmp_path)

    def filled(url, dest, **_):
        with open(f"{dest}.temp{os.getpid()}", "wb") as file:
            file.write(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("webdataset.cache.download", filled)
        assert cache.fetch(shard(server, 0)) is None
    assert names(tmp_path) == []
    assert cache.fetch(shard(server, 0)) is None  # not now
    assert "or its disk" in caplog.text


def test_a_download_that_failed_is_tried_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "DEADLINE", 0.0)
    cache = cache_of(tmp_path)
    server.faults = [503]
    with pytest.raises(RemoteError, match="503"):
        cache.fetch(shard(server, 0))
    assert cache.fetch(shard(server, 0)).read_bytes() == content(0)


def test_files_of_others_are_not_removed(server, tmp_path):
    mine = tmp_path / "cache" / "mine.tar"
    mine.parent.mkdir()
    mine.write_bytes(b"x" * SIZE)
    cache = cache_of(tmp_path, files=1)
    for number in range(4):
        assert cache.fetch(shard(server, number)) is not None
    assert mine.stat().st_size == SIZE


# -------------------------------------------------------------------------------- several processes


def fetch_all(folder, shards, results):
    cache = ShardCache(folder, 100 * SIZE)
    results.put([cache.fetch(RemoteShard(*shard)).read_bytes() for shard in shards])


def test_two_writers_of_one_file(server, tmp_path):
    """One process fetches each file, and both get it complete."""
    shards = [tuple(shard(server, number)) for number in range(5)]
    results = FORK.Queue()
    processes = [
        FORK.Process(target=fetch_all, args=(tmp_path / "cache", shards, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        assert results.get(timeout=120) == [content(number) for number in range(5)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert [server.got(f"f{number}") for number in range(5)] == [1] * 5
    assert names(tmp_path) == [f"f{number}" for number in range(5)]


def test_what_a_killed_download_left_is_removed_for_room(server, tmp_path):
    server.always = "stall"
    process = FORK.Process(target=cache_of(tmp_path).fetch, args=(shard(server, 0),))
    process.start()
    try:
        until(lambda: names(tmp_path) == [f"f0.temp{process.pid}"])
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    server.always = None
    (left,) = (tmp_path / "cache" / "enlarger-shards").iterdir()
    left.write_bytes(b"x" * SIZE)
    cache = cache_of(tmp_path, files=1)
    for number in range(2):
        time.sleep(0.02)
        assert cache.fetch(shard(server, number)).read_bytes() == content(number)
    assert names(tmp_path) == ["f0", "f1"]


# --------------------------------------------------------------------------------------- read ahead


def test_reads_ahead(server, tmp_path):
    cache = cache_of(tmp_path, downloads=2)
    cache.read_ahead([shard(server, number) for number in (4, 5, 6)])
    until(lambda: names(tmp_path) == ["f4", "f5", "f6"])
    cache.read_ahead([shard(server, number) for number in (6, 7)])
    until(lambda: names(tmp_path) == ["f4", "f5", "f6", "f7"])


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


def test_process_ends_while_it_fetches(server, tmp_path):
    server.always = "stall"
    url = f"{server.url}/f0"
    subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "cache", url], check=True, timeout=300)


def test_pickled_and_forked_caches_read_ahead(server, tmp_path):
    cache = cache_of(tmp_path, downloads=1)
    cache.read_ahead([shard(server, 0)])
    until(lambda: names(tmp_path) == ["f0"])
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.fetch(shard(server, 1))

    def work():
        cache.read_ahead([shard(server, 2)])
        until(lambda: "f2" in names(tmp_path))

    process = FORK.Process(target=work)
    process.start()
    process.join(120)
    assert process.exitcode == 0


# ------------------------------------------------------------------------------------------- shards


@pytest.fixture
def source(server, tmp_path):
    """Six shards of one image over HTTP, in a cache with room for two."""
    sizes = []
    for number in range(6):
        path = write(
            server.root / f"t-{number}.tar", [(f"k{number}.png", image_bytes(tmp_path, number))]
        )
        sizes.append(indexed(path).stat().st_size)
    made = Shards(
        f"{server.url}/t-{{0..5}}.tar",
        index_cache=f"{tmp_path}/indices",
        cache_dir=f"{tmp_path}/cache",
        cache_size=2 * max(sizes),
        read_ahead=1,
    )
    made.prepare(2.0)
    return made


def check(source, index):
    np.testing.assert_array_equal(source.read(index)["hr"], pixels(seed=index))


def test_without_room_samples_come_from_the_server(source, server):
    source._reader.cache.limit = 1000
    for index in range(6):
        check(source, index)
    asked = [asked for method, path, asked in server.requests if path == "/t-5.tar"]
    assert len(asked) == 2  # its size, and the image
    assert asked[1].startswith("bytes=")


def test_workers_fetch_each_shard_once(source, server):
    source._reader.cache.limit = 10**9
    source.upcoming([0])  # fsspec has begun its thread before the fork
    until(lambda: server.got("t-0.tar"))

    class Images:
        def __len__(self):
            return 24

        def __getitem__(self, index):
            return source.read(index % 6)["hr"]

    loader = DataLoader(Images(), None, num_workers=2, multiprocessing_context="fork")
    for index, hr in enumerate(loader):
        np.testing.assert_array_equal(hr, pixels(seed=index % 6))
    assert [server.got(f"t-{number}.tar") for number in range(6)] == [1] * 6


def test_a_cached_shard_that_vanishes(source, tmp_path):
    check(source, 0)
    for path in (tmp_path / "cache" / "enlarger-shards").glob("*.tar"):
        path.unlink()
    check(source, 0)


def test_a_cached_shard_that_rots(source, server, tmp_path):
    check(source, 0)
    (path,) = (tmp_path / "cache" / "enlarger-shards").glob("*.tar")
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    check(source, 0)
    assert server.got("t-0.tar") == 2
