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
from types import SimpleNamespace

import numpy as np
import pytest
import xxhash

from datamodules.shards import cache as cache_module
from datamodules.shards import remote as retry
from datamodules.shards.cache import DiskCache
from datamodules.shards.remote import CHUNK, RetryPolicy, Wanted
from datamodules.shards.shards import Shards
from tests.datamodules.image_files import pixels
from tests.datamodules.server import serving
from tests.datamodules.shards.test_shards import image_bytes, indexed, write

HASTE = RetryPolicy(retries=2, deadline=60.0, stall=20.0)  # longer than any test waits
SIZE = 100_000
FIFTH = ("GET", "/t-5.tar")
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(cache_module, "PAUSE", 0.01)


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


def wanted(server, number, size=SIZE):
    data = content(number, size)
    return Wanted(f"{server.url}/f{number}", "v1", size, xxhash.xxh3_128_hexdigest(data))


def cache_of(tmp_path, files=100, downloads=0):
    return DiskCache(tmp_path / "cache", files * SIZE, HASTE, downloads)


def names(tmp_path):
    return sorted(p.name[17:] for p in (tmp_path / "cache").iterdir() if p.is_file())


def age(path, seconds):
    """Make a file look as if it was last used some time ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def test_a_file_of_another_user_is_read(server, tmp_path, monkeypatch):
    path = cache_of(tmp_path).fetch(wanted(server, 0))

    def refused(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(cache_module.os, "utime", refused)
    cache = cache_of(tmp_path)
    cache.hold([wanted(server, 0)])
    assert cache.fetch(wanted(server, 0)) == path


def test_checksum_is_compared(server, tmp_path, caplog):
    (server.root / "f0").write_bytes(content(77))
    cache = cache_of(tmp_path)
    assert cache.fetch(wanted(server, 0)) is None
    assert server.got("f0") == HASTE.retries + 1
    assert names(tmp_path) == []
    assert "is not the file that was indexed" in caplog.text
    assert cache.fetch(wanted(server, 0)) is None
    assert server.got("f0") == HASTE.retries + 1  # it is known now


# ---------------------------------------------------------------------------------------- its limit


def test_least_recently_used_goes_first(server, tmp_path):
    cache = cache_of(tmp_path, files=3)
    for number in range(3):
        age(cache.fetch(wanted(server, number)), 100 - number)
    cache.fetch(wanted(server, 0))  # used again
    cache.fetch(wanted(server, 3))
    assert names(tmp_path) == ["f0", "f2", "f3"]


def test_what_is_next_is_not_removed(server, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(cache_module, "HELD", 1000.0)
    owner, other = cache_of(tmp_path, files=2), cache_of(tmp_path, files=2)
    for number in range(2):
        other.fetch(wanted(server, number))
    owner.read_ahead([wanted(server, 0), wanted(server, 1)])
    assert other.fetch(wanted(server, 0))  # which leaves it held
    assert other.fetch(wanted(server, 2)) is None
    assert other.fetch(wanted(server, 3)) is None
    message = "smaller than what is read at the same time: 2 shards of 200000 bytes are in use"
    assert caplog.text.count(message) == 1
    assert names(tmp_path) == ["f0", "f1"]
    owner.close()
    age(tmp_path / "cache" / wanted(server, 0).name, 1)  # as after HELD seconds
    assert other.fetch(wanted(server, 4))
    assert names(tmp_path) == ["f1", "f4"]


def test_what_was_used_before_the_clock_was_set_back_is_not_held(server, tmp_path):
    cache = cache_of(tmp_path, files=1)
    age(cache.fetch(wanted(server, 0)), -3600)
    assert cache.fetch(wanted(server, 1))


def test_what_is_read_stays_held(server, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "HELD", 0.04)
    cache = cache_of(tmp_path)
    path = cache.fetch(wanted(server, 0))
    cache.read_ahead([wanted(server, 0)])
    held = path.stat().st_mtime
    until(lambda: path.stat().st_mtime > held)
    cache.close()


def test_a_file_larger_than_the_cache(server, tmp_path, caplog):
    cache = DiskCache(tmp_path / "cache", SIZE - 1, HASTE)
    assert cache.fetch(wanted(server, 0)) is None
    assert "raise Shards.cache_size" in caplog.text
    assert server.got("f0") == 0


# -------------------------------------------------------------------------------------- a full disk


def test_a_disk_that_fills_up(server, tmp_path, monkeypatch, caplog):
    cache = cache_of(tmp_path)

    def filled(wanted, part, *rest):
        part.write_bytes(b"x" * 10)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(cache_module, "download", filled)
        assert cache.fetch(wanted(server, 0)) is None
        assert cache.fetch(wanted(server, 1)) is None
    assert caplog.text.count("or its disk, is smaller than what is read") == 1
    assert names(tmp_path) == []
    until(lambda: cache.fetch(wanted(server, 0)))


def test_a_full_disk_makes_room(server, tmp_path, monkeypatch):
    cache = cache_of(tmp_path)
    for number in range(3):
        age(cache.fetch(wanted(server, number)), 100 - number)
    free = SimpleNamespace(free=SIZE // 2)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda folder: free)
    assert cache.fetch(wanted(server, 3)).read_bytes() == content(3)
    assert names(tmp_path) == ["f1", "f2", "f3"]


def test_a_quota_makes_room(server, tmp_path, monkeypatch):
    cache = cache_of(tmp_path)
    for number in range(2):
        age(cache.fetch(wanted(server, number)), 100 - number)

    def refused(*_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patched:
        patched.setattr(cache_module, "download", refused)
        assert cache.fetch(wanted(server, 2)) is None
    until(lambda: cache.fetch(wanted(server, 2)))
    assert names(tmp_path) == ["f1", "f2"]


# -------------------------------------------------------------------------------- several processes


def fetch_all(folder, files, results):
    cache = DiskCache(folder, 100 * SIZE, HASTE, 0)
    results.put([cache.fetch(Wanted(*file)).read_bytes() for file in files])


def test_two_writers_of_one_file(server, tmp_path):
    """One process fetches each file, and both get it complete."""
    files = [tuple(wanted(server, number)) for number in range(5)]
    results = FORK.Queue()
    processes = [
        FORK.Process(target=fetch_all, args=(tmp_path / "cache", files, results)) for _ in range(2)
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


def test_a_killed_download_is_continued(server, tmp_path):
    data = content(0, 9_000_000)
    (server.root / "f0").write_bytes(data)
    file = wanted(server, 0, 9_000_000)
    server.faults = [None, "stall"]
    patient = DiskCache(tmp_path / "cache", 10**8, RetryPolicy(0, 60.0, 60.0), 0)
    process = FORK.Process(target=patient.fetch, args=(file,))
    process.start()
    try:
        until(lambda: server.got("f0") == 2)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    server.requests.clear()
    path = patient.fetch(file)
    assert path.read_bytes() == data
    ranges = [asked for method, _, asked in server.requests if method == "GET"]
    assert ranges[0].startswith(f"bytes={CHUNK}-")
    assert names(tmp_path) == ["f0"]


def test_files_of_others_in_the_folder_are_not_removed(server, tmp_path):
    """Foreign files may have similar names; ours have the lock of their download."""
    folder = tmp_path / "cache"
    folder.mkdir()
    names = [f"{'0' * 16}-mine.tar", f"{'0' * 16}-mine.100.part", "notes.txt"]
    mine = [folder / name for name in names]
    for path in mine:
        path.write_bytes(b"x" * SIZE)
        age(path, 100_000)
    cache = cache_of(tmp_path, files=2)
    for number in range(4):
        assert cache.fetch(wanted(server, number)) is not None
    assert all(path.stat().st_size == SIZE for path in mine)
    own = [path for path in folder.glob("*-f*")]
    assert len(own) == 2


def test_parts_that_somebody_works_on_have_their_room(server, tmp_path):
    cache = cache_of(tmp_path, files=2)
    (tmp_path / "cache" / f"{'0' * 16}-x.{SIZE}.part").touch()
    with cache._lock(f"{'0' * 16}-x"):
        cache.fetch(wanted(server, 0))
        cache.fetch(wanted(server, 1))
        assert names(tmp_path) == ["f1", f"x.{SIZE}.part"]


# --------------------------------------------------------------------------------------- read ahead


def test_reads_ahead(server, tmp_path):
    cache = cache_of(tmp_path, downloads=2)
    cache.read_ahead([wanted(server, number) for number in (4, 5, 6)])
    until(lambda: names(tmp_path) == ["f4", "f5", "f6"])
    cache.read_ahead([wanted(server, number) for number in (6, 7)])
    until(lambda: names(tmp_path) == ["f4", "f5", "f6", "f7"])
    cache.close()


SCRIPT = """
import sys, time
from pathlib import Path
from datamodules.shards.cache import DiskCache
from datamodules.shards.remote import RetryPolicy, Wanted
folder = Path(sys.argv[1])
cache = DiskCache(folder, 10**8, RetryPolicy(9, 60.0, 60.0), 2)
cache.read_ahead([Wanted(sys.argv[2], "v1", 100_000)])
while not list(folder.glob("*.part")):
    time.sleep(0.01)
"""


def test_process_ends_while_it_fetches(server, tmp_path):
    server.always = "stall"
    url = f"{server.url}/f0"
    subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "cache", url], check=True, timeout=300)
    assert names(tmp_path) == ["f0.100000.part"]


def test_pickled_and_forked_caches_begin_anew(server, tmp_path):
    cache = cache_of(tmp_path, downloads=1)
    cache.read_ahead([wanted(server, 0)])
    until(lambda: names(tmp_path) == ["f0"])
    copy = pickle.loads(pickle.dumps(cache))
    assert copy._ahead is None
    assert copy.fetch(wanted(server, 1))

    def work():
        cache.read_ahead([wanted(server, 2)])
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
        deadline=8.0,
    )
    made.prepare(2.0)
    return made


def check(source, index):
    np.testing.assert_array_equal(source.read(index)["hr"], pixels(seed=index))


def test_without_room_samples_come_from_the_server(source, server, tmp_path, caplog):
    source.upcoming([0, 1])
    until(lambda: names(tmp_path) == ["t-0.tar", "t-1.tar"])
    for index in range(6):
        check(source, index)
    assert names(tmp_path) == ["t-0.tar", "t-1.tar"]
    asked = [asked for method, path, asked in server.requests if (method, path) == FIFTH]
    assert len(asked) == 1
    assert asked[0].startswith("bytes=")
    assert caplog.text.count("smaller than what is read at the same time") == 1


def test_a_cached_shard_that_vanishes(source, server, tmp_path):
    check(source, 0)
    source._reader.close()
    for path in (tmp_path / "cache").glob("*.tar"):
        path.unlink()
    check(source, 0)
    assert server.got("t-0.tar") == 2


def test_a_cached_shard_that_rots(source, server, tmp_path):
    check(source, 0)
    (path,) = (tmp_path / "cache").glob("*.tar")
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    check(source, 0)
    assert server.got("t-0.tar") == 2
