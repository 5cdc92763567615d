"""Mutated image files give an error or an image, never anything else."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from files.images.decode import UnreadableImage, decode
from tests.datamodules.image_files import pixels

KINDS = {
    "jpeg": {"format": "JPEG", "quality": 90},
    "progressive jpeg": {"format": "JPEG", "progressive": True},
    "png": {"format": "PNG"},
    "webp": {"format": "WEBP"},
    "tiff": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    "bmp": {"format": "BMP"},
    "gif": {"format": "GIF"},
    "avif": {"format": "AVIF"},
    "jpeg 2000": {"format": "JPEG2000"},
}


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Cut off, with flipped bits (also in its header), a hole, or a part that is missing."""
    start, changed = draw.randrange(len(data)), bytearray(data)
    for _ in range(draw.choice((1, 1, 4, 40))):
        at = draw.randrange(draw.choice((64, len(data))))
        changed[at % len(data)] ^= 1 << draw.randrange(8)
    hole = data[:start] + bytes(64) + data[start + 64 :]
    gap = data[:start] + data[start + draw.randrange(1, 200) :]
    return draw.choice((data[:start], bytes(changed), hole, gap))


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels((56, 40))).save(buffer, **KINDS[kind])
    draw, errors, images = random.Random(0), 0, 0
    for _ in range(200):
        try:
            rgb = decode(mutated(buffer.getvalue(), draw), "a").rgb
        except UnreadableImage:
            errors += 1
        else:
            images += rgb.ndim == 3 and rgb.dtype == np.uint8
    assert errors + images == 200
    assert errors > 20
