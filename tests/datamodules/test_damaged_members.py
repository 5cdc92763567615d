"""Damaged and missing files beside images: skipped, or made again, in place of an end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.files.members import parse_floats, parse_member
from datamodules.shards.index import index_places, load_index
from datamodules.shards.shards import Shards
from datamodules.sources.triplets import PARTS, Triplets
from files.images.decode import UnreadableImage
from tests.datamodules.image_files import encoded, pixels, write_tar
from tests.datamodules.server import serving


def parse_map(data: bytes) -> np.ndarray:
    return parse_floats(data, dimensions=2)


def npy_with_header(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "data",
    [
        npy_with_header(b"{'descr': '<f4', 'shape': (2,\n"),  # tokenize.TokenError
        b"PK\x03\x04 no archive",  # zipfile.BadZipFile
        b"PK\x05\x06" + bytes(18),  # an archive, which has no dimensions
    ],
)
def test_an_array_of_damaged_bytes_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableImage, match=r"a\.npy"):
        parse_member(parse_map, data, "a.npy")


def test_a_triplet_without_its_number_is_unreadable(tmp_path: Path) -> None:
    for part in (*PARTS, "judge"):
        (tmp_path / part).mkdir()
    for part in PARTS:
        Image.fromarray(pixels()).save(tmp_path / part / "a.png")
    judgement = tmp_path / "judge/a.npy"
    np.save(judgement, np.float32(0.5))
    source = Triplets(str(tmp_path))
    source.prepare(1.0)
    judgement.unlink()

    with pytest.raises(UnreadableImage, match=r"a\.npy"):
        source.read(0)


def test_an_index_that_cannot_be_read_is_made_again(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "t.tar", {"k.png": encoded(pixels())})
    beside, _ = index_places(shard, tmp_path / "cache")
    beside.mkdir()  # reading a folder fails for every user, root too

    index = load_index(shard, tmp_path / "cache")

    assert index.keys == ["k"]


def test_a_damaged_download_is_downloaded_again(tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    with serving(served) as server:
        shard = write_tar(served / "t.tar", {"k.png": encoded(pixels())})
        whole = shard.read_bytes()
        shard.write_bytes(bytes([255]) * len(whole))
        url = f"{server.url}/t.tar"
        folders = {"index_cache": f"{tmp_path}/indices", "cache_dir": f"{tmp_path}/cache"}
        source = Shards(url, **folders)
        with pytest.raises(ValueError, match=url):
            source.prepare(2.0)

        cached = list((tmp_path / "cache/enlarger-shards").iterdir())
        shard.write_bytes(whole)
        source.prepare(2.0)

    assert cached == []
    assert source.keys == ["k"]
