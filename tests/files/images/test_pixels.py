"""Rows that are written one by one, colours below transparency, and mutated files."""

import io
import random

import numpy as np
import pytest
import simplejpeg
from numpy.testing import assert_array_equal
from PIL import Image

from files.images.alpha import without_hidden_colours
from files.images.decode import UnreadableImage, decode
from files.images.rows import write_jpeg, write_png
from tests.datamodules.image_files import encoded, pixels


@pytest.mark.parametrize("quality", [5, 95])
@pytest.mark.parametrize("height", [1, 64, 65, 700])  # rows are written in bands of 64
def test_images_written_row_by_row_are_those_written_at_once(height, quality):
    image = pixels((37, height))
    png = io.BytesIO()
    jpeg = io.BytesIO()

    write_png(png, image, chunks=[])
    write_jpeg(jpeg, image, quality)

    at_once = encoded(image, "JPEG", quality=quality, subsampling=0)
    assert_array_equal(Image.open(png), image)
    assert_array_equal(simplejpeg.decode_jpeg(jpeg.getvalue()), simplejpeg.decode_jpeg(at_once))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_transparent_pixels_get_the_colour_of_the_nearest_that_is_not(kind):
    """Enlarging would mix what they hide, often black, into the edge of what is seen."""
    alpha = np.ones((17, 22), kind)
    alpha[:, 8:14] = 0
    expected = np.zeros((17, 22, 3), kind)
    expected[:, :11] = (200, 10, 20)  # 11: the middle of the transparent columns 8 to 13
    expected[:, 11:] = (30, 40, np.iinfo(kind).max)
    hidden = 77  # a level that is nowhere else
    image = np.where(alpha[..., None] == 0, hidden, expected).astype(kind)

    result = without_hidden_colours(image, alpha)

    assert result.dtype == kind
    assert_array_equal(result, expected)


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


def mutated(data, draw):
    """Cut off, with flipped bits (also in its header), a hole, or a part that is missing."""
    start = draw.randrange(len(data))
    flipped = bytearray(data)
    for _ in range(draw.choice((1, 1, 4, 40))):
        place = draw.randrange(draw.choice((64, len(data))))
        flipped[place % len(data)] ^= 1 << draw.randrange(8)
    hole = data[:start] + bytes(64) + data[start + 64 :]
    gap = data[:start] + data[start + draw.randrange(1, 200) :]
    return draw.choice((data[:start], bytes(flipped), hole, gap))


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
    assert errors > 20  # of 200: the mutations do harm
