"""Remote shards: read despite failures, with clear errors if that is impossible."""

from __future__ import annotations

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
    hide_secrets,
    look_up,
    open_remote,
    read_range,
    read_small,
)
from datamodules.shards.shards import Shards
from datamodules.shards.stream import Stream
from files.images.decode import UnreadableImage
from tests.datamodules.image_files import pixels
from tests.datamodules.server import serving
from tests.datamodules.shards.test_shards import image_bytes, indexed, write

CONTENT = bytes(range(256)) * 20_000  # 5 MB


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(remote, "CHUNK", 1 << 20)


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


def check(source, count=5):
    for index in range(count):
        np.testing.assert_array_equal(source.read(index)["hr"], pixels(seed=index))


# ---------------------------------------------------------------------------------------- addresses

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
    assert look_up(address).size == (server.root / "t.tar").stat().st_size
    stream = Stream(1, [address], shuffle=0)
    stream.prepare(2.0)
    raws = stream.raws(stream.plan(0, 1, 1, 1), 0, 0, [])
    assert [next(raws).key for _ in range(3)] == ["k0", "k1", "k2"]


@pytest.mark.parametrize(
    ("written", "sent"),
    [("/a b/ü.tar", "/a%20b/%C3%BC.tar"), ("/a.tar?b=c d", "/a.tar?b=c+d"), ("/100%.tar",) * 2],
)
def test_what_no_request_may_hold_is_escaped(server, written, sent):
    (server.root / "t.tar").write_bytes(b"abc")
    server.signed[sent] = "t.tar"
    assert read_small(f"{server.url}{written}") == b"abc"


def test_secrets_are_not_shown():
    address = "https://me:secret@host/a.tar?X-Amz-Signature=secret"
    assert hide_secrets(address) == "https://host/a.tar?..."


# ------------------------------------------------------------------------------------------- ranges


@pytest.mark.parametrize("ranges", [True, False])
def test_parts(server, ranges):
    server.ranges = ranges
    url = f"{server.url}/f.bin"
    assert read_range(url, 300, 5) == CONTENT[300:305]
    assert read_range(url, len(CONTENT) - 10, 20) == CONTENT[-10:]


def test_nothing_is_after_the_end(server):
    assert read_range(f"{server.url}/f.bin", len(CONTENT), 20) == b""


@pytest.mark.parametrize("faults", [[], [503, 500], [None, "cut", "cut"], ["stall"], [429, "cut"]])
def test_a_file_is_read_despite_failures(server, monkeypatch, faults):
    monkeypatch.setattr(remote, "STALL", 0.5)
    failures = [fault for fault in faults if fault is not None]
    server.faults = [*faults]
    with open_remote(f"{server.url}/f.bin") as file:
        assert file.read() == CONTENT
    assert server.got("f.bin") == 5 + len(failures)  # parts of 1 MB, each until it came


@pytest.mark.parametrize("size", [1 << 20, 5 << 20, 100])
def test_a_server_without_ranges_sends_a_file_once(server, size):
    server.ranges = False
    (server.root / "f.bin").write_bytes(CONTENT[:size] + b"x")
    with open_remote(f"{server.url}/f.bin") as file:
        assert file.read() == CONTENT[:size] + b"x"
    assert server.got("f.bin") == 1


def test_a_file_of_whole_chunks(server):
    (server.root / "f.bin").write_bytes(CONTENT[: 2 << 20])
    with open_remote(f"{server.url}/f.bin") as file:
        assert file.read() == CONTENT[: 2 << 20]


# ------------------------------------------------------------------------------------------- errors


def test_a_server_that_stalls_has_a_limit(server, monkeypatch):
    monkeypatch.setattr(remote, "STALL", 0.3)
    monkeypatch.setattr(remote, "DEADLINE", 0.5)
    server.always = "stall"
    with pytest.raises(RemoteError, match=r"f\.bin cannot be read: attempt \d failed .*Timeout"):
        read_range(f"{server.url}/f.bin", 0, 5)


def test_refused_connection(monkeypatch):
    monkeypatch.setattr(remote, "DEADLINE", 0.1)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # no server listens
        url = f"http://127.0.0.1:{held.getsockname()[1]}/a.tar"
        with pytest.raises(RemoteError, match=r"/a\.tar cannot be read: .*Connect"):
            look_up(url)


@pytest.mark.parametrize("status", [401, 403])
def test_what_needs_a_login_is_not_tried_again(server, status):
    server.always = status
    with pytest.raises(RemoteError, match=f"{status}, message=") as caught:
        read_range(f"{server.url}/f.bin?key=secret", 0, 5)
    assert "secret" not in str(caught.value)
    assert len(server.requests) == 1


def test_errors_reach_the_trainer():
    error = pickle.loads(pickle.dumps(RemoteError("it is gone")))
    assert (type(error), str(error)) == (RemoteError, "it is gone")


# ------------------------------------------------------------------------------------------- shards


def test_shards_over_http(two, prepared, tmp_path):
    source = prepared(f"{two.url}/t-{{000..001}}.tar")
    assert source.keys == ["k0", "k1", "k2", "k3", "k4"]
    assert source.size(4) == pixels().shape[:2]
    assert two.got("t-000.tar") == 0  # the index beside it was enough
    check(source)
    check(source)
    assert two.got("t-000.tar") == two.got("t-001.tar") == 1
    assert source.read(0)["meta"]["path"] == f"{two.url}/t-000.tar"


def test_a_pattern_is_listed_by_the_server(two, prepared):
    assert prepared(f"{two.url}/t-*.tar").keys == ["k0", "k1", "k2", "k3", "k4"]


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


def test_a_broken_tar_without_an_index_is_named(server, tmp_path, prepared):
    path = write(server.root / "t.tar", [("k.png", image_bytes(tmp_path, 0))])
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"shard http.*t\.tar cannot be read"):
        prepared(f"{server.url}/t.tar")


def test_half_an_image_in_a_tar_without_an_index(server, tmp_path, prepared):
    """A crop above the damage would decode; the image as a whole does not."""
    half = image_bytes(tmp_path, 0, "jpg", (64, 64))
    write(server.root / "t.tar", [("k.jpg", half[: len(half) // 2])])
    source = prepared(f"{server.url}/t.tar")
    with pytest.raises(UnreadableImage):
        TrainingImages(source, "train", 2.0, 16, True)[Item(0, 0, 0, 0)]


def test_a_shard_is_served_truncated(two, prepared):
    """The intact part is read; the rest is counted by reason."""
    source = prepared(f"{two.url}/t-{{000..001}}.tar")
    offset = source._table.place("hr", 1).offset
    path = two.root / "t-000.tar"
    path.write_bytes(path.read_bytes()[: offset + 20])
    check(source, 1)
    with pytest.raises(UnreadableImage, match=r"t-000\.tar: k1: 20 of the") as caught:
        source.read(1)
    assert caught.value.reason == "truncated"
    np.testing.assert_array_equal(source.read(3)["hr"], pixels(seed=3))


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


def test_a_stream_from_an_object_store(store):
    stream = Stream(1, "s3://bucket/t-000.tar", shuffle=0)
    stream.prepare(2.0)
    raws = stream.raws(stream.plan(0, 1, 1, 1), 0, 0, [])
    assert [next(raws).key for _ in range(3)] == ["k0", "k1", "k2"]
