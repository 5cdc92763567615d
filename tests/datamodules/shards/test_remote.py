"""Remote shards: read despite failures, with clear errors if that is impossible."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import sys

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from datamodules.order.plan import Item
from datamodules.samples import TrainingImages
from datamodules.shards import remote
from datamodules.shards.remote import (
    RemoteError,
    RetryPolicy,
    Wanted,
    download,
    look_up,
    read_range,
    read_small,
    shown,
)
from datamodules.shards.shards import Shards
from datamodules.shards.stream import Stream
from files.images.decode import UnreadableImage
from tests.datamodules.image_files import pixels
from tests.datamodules.server import serving
from tests.datamodules.shards.test_shards import image_bytes, indexed, write

HASTE = RetryPolicy(retries=3, deadline=60.0, stall=20.0)  # longer than any test waits
SHORT = RetryPolicy(retries=3, deadline=60.0, stall=0.5)  # for connections that stall
CONTENT = bytes(range(256)) * 20_000  # 5 MB


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as state:
        (state.root / "f.bin").write_bytes(CONTENT)
        yield state


@pytest.fixture
def two(server, tmp_path):
    """Two tars with their indices, of 3 and 2 images."""
    for shard, numbers in enumerate([(0, 1, 2), (3, 4)]):
        members = [(f"k{n}.png", image_bytes(tmp_path, n)) for n in numbers]
        indexed(write(server.root / f"t-{shard:03d}.tar", members))
    return server


@pytest.fixture
def prepared(tmp_path):
    def prepare(urls, **options):
        folders = {"index_cache": f"{tmp_path}/indices", "cache_dir": f"{tmp_path}/cache"}
        source = Shards(urls, **{**folders, **options})
        source.prepare(2.0)
        return source

    return prepare


SIGNED = [  # by S3, Google, Azure, CloudFront, and others
    "/b/t.tar?X-Amz-Credential=AK%2F2026%2Fs3&X-Amz-Signature=0f",
    "/b/t.tar?sv=2026&sig=x+y/z==&se=2026-01-01T00:00:00Z",
    "/b/t.tar?name=UTF-8''t%C3%A4.tar&of=*&to=a::b",
    "/b%2Fc/~user/%7Eother/t.tar?a='1'&b=(2)&c=%e4;d",
    "/b/t+1%20.tar",
]


@pytest.mark.parametrize(
    ("way", "target"),
    [*(("directly", t) for t in SIGNED), ("to a path", SIGNED[3]), ("to an address", SIGNED[0])],
)
def test_an_address_is_sent_as_it_is_written(server, tmp_path, prepared, target, way):
    members = [(f"k{n}.png", image_bytes(tmp_path, n)) for n in range(3)]
    write(server.root / "t.tar", members)
    server.signed[target] = "t.tar"
    if way != "directly":
        place = target if way == "to a path" else f"{server.url}{target}"
        server.redirects["/here.tar"] = place
    address = f"{server.url}{target if way == 'directly' else '/here.tar'}"
    source = prepared([address])
    check(source, 3)
    assert prepared([address], cache_size=0).keys == source.keys
    assert look_up(address, HASTE).size == (server.root / "t.tar").stat().st_size
    stream = Stream(1, [address], shuffle=0)
    stream.prepare(2.0)
    raws = stream.raws(stream.plan(0, 1, 1, 1), 0, 0, [])
    assert [next(raws).key for _ in range(3)] == ["k0", "k1", "k2"]


@pytest.mark.parametrize(
    ("written", "sent"),
    [("/a b/ü.tar", "/a%20b/%C3%BC.tar"), ("/a.tar?b=c d", "/a.tar?b=c%20d"), ("/100%.tar",) * 2],
)
def test_what_no_request_may_hold_is_escaped(server, tmp_path, written, sent):
    (server.root / "t.tar").write_bytes(b"abc")
    server.signed[sent] = "t.tar"
    assert read_small(f"{server.url}{written}", HASTE) == b"abc"


def cached(folder):
    return sorted(path.name[17:] for path in folder.glob("cache/*") if path.is_file())


def check(source, count=5):
    for index in range(count):
        np.testing.assert_array_equal(source.read(index)["hr"], pixels(seed=index))


# ---------------------------------------------------------------------------------------- addresses


def test_secrets_are_not_shown():
    address = "https://me:secret@host/a.tar?X-Amz-Signature=secret"
    assert shown(address) == "https://host/a.tar?..."


# ---------------------------------------------------------------------------------------- downloads


def wanted(server, size=None):
    return Wanted(f"{server.url}/f.bin", "", size or len(CONTENT))


@pytest.mark.parametrize("faults", [[], [503, 500], ["cut", "cut"], ["stall"], [429, "cut", 503]])
def test_download_survives(server, tmp_path, faults):
    server.faults = faults
    policy = SHORT if "stall" in faults else HASTE
    download(wanted(server), tmp_path / "part", policy)
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_download_from_a_server_without_ranges(server, tmp_path):
    server.ranges, server.faults = False, ["cut"]
    download(wanted(server), tmp_path / "part", HASTE)
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_download_by_a_slow_link(server, tmp_path):
    server.most = 1 << 20
    download(wanted(server), tmp_path / "part", SHORT)
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_progress_is_not_counted_as_failure(server, tmp_path, monkeypatch):
    """A bad connection: one in two parts is cut."""
    monkeypatch.setattr(remote, "CHUNK", 1 << 20)
    server.faults = ["cut", None] * 4
    download(wanted(server), tmp_path / "part", RetryPolicy(1, 60.0, 20.0))
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert server.got("f.bin") == 9


def test_download_of_other_content(server, tmp_path):
    file = Wanted(f"{server.url}/f.bin", "", len(CONTENT), "0" * 32)
    with pytest.raises(RemoteError, match="expected 5120000 and 000") as caught:
        download(file, tmp_path / "part", HASTE)
    assert caught.value.kind == "content"


def test_a_full_disk_is_not_tried_again(server, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        download(wanted(server), tmp_path / "part", HASTE)
    assert caught.value.errno == errno.ENOSPC
    assert server.got("f.bin") == 2


@pytest.mark.parametrize("ranges", [True, False])
def test_parts(server, ranges):
    server.ranges = ranges
    url = f"{server.url}/f.bin"
    assert read_range(url, 300, 5, HASTE) == CONTENT[300:305]
    assert read_range(url, len(CONTENT) - 10, 20, HASTE) == CONTENT[-10:]
    assert read_range(url, len(CONTENT), 20, HASTE) == b""


# ------------------------------------------------------------------------------------- what is said


def test_refused_connection():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # no server listens
        url = f"http://127.0.0.1:{held.getsockname()[1]}/a.tar"
        with pytest.raises(
            RemoteError,
            match=r"127.0.0.1:\d+/a\.tar could not be read: 4 attempts in .*Connect.*network",
        ) as caught:
            look_up(url, HASTE)
        assert caught.value.kind == "unreachable"


@pytest.mark.parametrize("status", [401, 403])
def test_what_needs_a_login(server, status):
    server.always = status
    with pytest.raises(RemoteError, match="requires other credentials") as caught:
        read_range(f"{server.url}/f.bin?key=secret", 0, 5, HASTE)
    assert caught.value.kind == "denied"
    assert "secret" not in str(caught.value)
    assert len(server.requests) == 1


def test_errors_reach_the_trainer():
    error = pickle.loads(pickle.dumps(RemoteError("it is gone", "missing")))
    assert (str(error), error.kind) == ("it is gone", "missing")


# ------------------------------------------------------------------------------------------- shards


def test_shards_over_http(two, prepared, tmp_path):
    source = prepared(f"{two.url}/t-{{000..001}}.tar")
    assert source.keys == ["k0", "k1", "k2", "k3", "k4"]
    assert source.size(4) == pixels().shape[:2]
    assert two.got("t-000.tar") == 0  # the index beside it was enough
    check(source)
    check(source)
    assert two.got("t-000.tar") == two.got("t-001.tar") == 1
    assert cached(tmp_path) == ["t-000.tar", "t-001.tar"]
    assert source.read(0)["meta"]["path"] == f"{two.url}/t-000.tar"


def test_indices_and_shards_are_kept(two, prepared):
    check(prepared(f"{two.url}/t-{{000..001}}.tar"))
    two.requests.clear()
    check(prepared(f"{two.url}/t-{{000..001}}.tar"))
    assert [method for method, *_ in two.requests] == ["HEAD", "HEAD"]


@pytest.mark.parametrize("fault", ["damaged", "of another tar", "of another version"])
def test_index_beside_it_is_no_use(two, prepared, fault):
    place = two.root / "t-000.tar.idx.json"
    text = place.read_text()
    place.write_text(
        {
            "damaged": text[:-9],
            "of another tar": text.replace('"size":', '"size":9'),
            "of another version": text.replace('"version":2', '"version":1'),
        }[fault]
    )
    check(prepared(f"{two.url}/t-{{000..001}}.tar"))
    assert two.got("t-000.tar") == 1


def test_shard_that_changes_between_two_runs(two, prepared, tmp_path):
    check(prepared(f"{two.url}/t-{{000..001}}.tar"))
    indexed(write(two.root / "t-001.tar", [("n3.png", image_bytes(tmp_path, 3))]))
    source = prepared(f"{two.url}/t-{{000..001}}.tar")
    assert source.keys == ["k0", "k1", "k2", "n3"]
    check(source, 4)


def test_half_an_image_in_a_tar_without_an_index(server, tmp_path, prepared):
    """A crop above the damage would decode; the image as a whole does not."""
    half = image_bytes(tmp_path, 0, "jpg", (64, 64))
    write(server.root / "t.tar", [("k.jpg", half[: len(half) // 2])])
    source = prepared(f"{server.url}/t.tar")
    with pytest.raises(UnreadableImage):
        TrainingImages(source, "train", 2.0, 16, True)[Item(0, 0, 0, 0)]


def test_a_shard_is_served_truncated(two, prepared, caplog):
    """The intact part is read sample by sample; the rest is counted by reason."""
    source = prepared(f"{two.url}/t-{{000..001}}.tar")
    offset = source._table.place("hr", 1).offset
    path = two.root / "t-000.tar"
    path.write_bytes(path.read_bytes()[: offset + 20])
    check(source, 1)
    with pytest.raises(UnreadableImage, match=r"t-000\.tar: k1: 20 of the") as caught:
        source.read(1)
    assert caught.value.reason == "truncated"
    np.testing.assert_array_equal(source.read(3)["hr"], pixels(seed=3))
    assert caplog.text.count("is not the file that was indexed") == 1


# ------------------------------------------------------------------------------------ object stores


class FakeStore(MemoryFileSystem):
    """A local object store under the name of a real one."""

    protocol = ("s3", "gs")
    store = {}  # noqa: RUF012  (fsspec's way)
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.removeprefix("s3://").removeprefix("gs://"))

    def unstrip_protocol(self, name):
        return f"s3://{name.lstrip('/')}"


@pytest.fixture
def store(monkeypatch, two):
    implementations = sys.modules["fsspec.registry"]._registry  # fsspec.registry is a view of it
    for scheme in ("s3", "gs"):
        monkeypatch.setitem(implementations, scheme, FakeStore)
    system = FakeStore()
    for path in two.root.iterdir():
        system.pipe(f"/bucket/{path.name}", path.read_bytes())
    yield system
    system.store.clear()


@pytest.mark.parametrize("url", ["s3://bucket/t-{000,001}.tar", "gs://bucket/t-{000..001}.tar"])
def test_object_stores(store, prepared, url):
    check(prepared(url))


def test_large_objects_come_in_pieces(store, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "CHUNK", 1000)
    download(Wanted("s3://bucket/f.bin", "", len(CONTENT)), tmp_path / "part", HASTE)
    assert (tmp_path / "part").read_bytes() == CONTENT
