"""Rows that are written one by one, colours below transparency, and mutated files."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from files.images.alpha import without_hidden_colours
from files.images.decode import UnreadableImage, decode
from files.images.rows import write_jpeg, write_png
from tests.datamodules.image_files import encoded, pixels


@pytest.mark.parametrize("quality", [5, 95])
@pytest.mark.parametrize("height", [1, 64, 65, 700])
def test_images_written_row_by_row_are_those_written_at_once(height, quality):
    image = pixels((37, height))
    png = io.BytesIO()
    jpeg = io.BytesIO()
    write_png(png, image, [])
    write_jpeg(jpeg, image, quality)
    assert np.array_equal(np.asarray(Image.open(png)), image)
    at_once = encoded(image, "JPEG", quality=quality, subsampling=0)
    expected = simplejpeg.decode_jpeg(at_once)
    assert np.array_equal(simplejpeg.decode_jpeg(jpeg.getvalue()), expected)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_hidden_pixels_get_the_colour_of_the_nearest_that_is_seen(kind):
    """One colour per half, so that either of two equally near pixels gives the same."""
    top = np.iinfo(kind).max
    alpha = np.full((17, 23), top, kind)
    alpha[:, 8:15] = 0
    rgb = np.zeros((17, 23, 3), kind)
    rgb[:, :11] = (200, 10, 20)
    rgb[:, 11:] = (30, 40, top)
    spoiled = np.where(alpha[..., None] == 0, 77, rgb).astype(kind)
    found = without_hidden_colours(spoiled, alpha)
    assert found.dtype == kind
    np.testing.assert_array_equal(np.delete(found, 11, 1), np.delete(rgb, 11, 1))
    assert not (found == 77).any()


FORMATS = {
    "jpeg": {"kind": "JPEG", "quality": 90},
    "progressive jpeg": {"kind": "JPEG", "progressive": True},
    "png": {"kind": "PNG"},
    "webp": {"kind": "WEBP"},
    "tiff": {"kind": "TIFF", "compression": "tiff_adobe_deflate"},
    "bmp": {"kind": "BMP"},
    "gif": {"kind": "GIF"},
    "avif": {"kind": "AVIF"},
    "jpeg 2000": {"kind": "JPEG2000"},
}


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Cut off, with flipped bits (also in its header), a hole, or a part that is missing."""
    start = draw.randrange(len(data))
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 4, 40))):
        place = draw.randrange(draw.choice((64, len(data))))
        changed[place % len(data)] ^= 1 << draw.randrange(8)
    hole = data[:start] + bytes(64) + data[start + 64 :]
    gap = data[:start] + data[start + draw.randrange(1, 200) :]
    return draw.choice((data[:start], bytes(changed), hole, gap))


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_a_mutated_file_gives_an_image_or_an_error(options):
    data = encoded(pixels((56, 40)), **options)
    draw = random.Random(0)
    errors = 0
    for _ in range(200):
        try:
            rgb = decode(mutated(data, draw), "a").rgb
        except UnreadableImage:
            errors += 1
        else:
            assert rgb.ndim == 3
            assert rgb.dtype == np.uint8
    assert errors > 20
