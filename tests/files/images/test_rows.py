"""Images that are written row by row are those that the libraries write at once."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from files.images.rows import write_jpeg, write_png


@pytest.mark.parametrize("quality", [5, 95])
@pytest.mark.parametrize("height", [1, 64, 65, 700])
def test_files(height: int, quality: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, 37, 3), np.uint8)
    png, jpeg = io.BytesIO(), io.BytesIO()
    write_png(png, pixels, [])
    write_jpeg(jpeg, pixels, quality)
    assert np.array_equal(np.asarray(Image.open(png)), pixels)
    at_once = io.BytesIO()
    Image.fromarray(pixels).save(at_once, "JPEG", quality=quality, subsampling=0)
    expected = simplejpeg.decode_jpeg(at_once.getvalue())
    assert np.array_equal(simplejpeg.decode_jpeg(jpeg.getvalue()), expected)
