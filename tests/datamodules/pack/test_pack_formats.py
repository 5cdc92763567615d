"""Formats in which the packer stores an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from datamodules.pack.images import Encoding, Recipe, process
from datamodules.pack.places import Entry, File
from datamodules.pack.shard_set import Outcome
from datamodules.shards.writer import Members
from files.images.decode import decode
from tests.datamodules.image_files import encoded, pixels

JPEG_START = b"\xff\xd8"
JFIF = slice(2, 20)  # marker, length and content of the segment after it


def pack(path: Path, kind: str) -> Outcome:
    entry = Entry(path.stem, {path.suffix[1:]: File(str(path))})
    return process(Recipe(encode=Encoding(kind, quality=90)), entry)


def members_of(outcome: Outcome) -> Members:
    assert outcome.refused is None, outcome.refused
    [(_, members)] = outcome.samples
    return members


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_jpeg_with_a_truncated_header_segment_is_encoded(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    data = encoded(pixels(), "JPEG")
    assert data[JFIF].startswith(b"\xff\xe0\x00\x10JFIF")
    path.write_bytes(JPEG_START + b"\xff\xe0\x00\x07JFIF\0" + data[JFIF.stop :])

    members = members_of(pack(path, kind))

    assert list(members) == [kind]
    np.testing.assert_array_equal(
        decode(members[kind], "packed").rgb, decode(path.read_bytes(), "original").rgb
    )


def test_a_jpeg_keeps_a_profile_that_describes_its_pixels(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "a.png"
    Image.fromarray(pixels()).save(path, icc_profile=profile)

    members = members_of(pack(path, "jpeg"))

    assert decode(members["jpg"], "packed").icc == profile


def test_a_jpeg_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (65501, 1)).save(path)  # libjpeg's limit is 65500

    outcome = pack(path, "jpeg")

    assert outcome.refused is not None
    assert outcome.refused.reason == "impossible as jpeg"
