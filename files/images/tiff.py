"""TIFF at the level of its tags: missing strips, and kinds that are not read."""

from __future__ import annotations

from typing import IO, Any, cast

from PIL import Image

from files.images import jpeg
from files.images.faults import Truncated

WIDTH, HEIGHT, COMPRESSION = 256, 257, 259
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_SIZES, PLANES = 273, 277, 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS = 322, 323, 324
OF_JPEG = 7  # a compression
SEPARATE = 2  # planes


def check_strips(image: Image.Image, data: jpeg.Bytes) -> None:
    """Compare the strips or tiles of a TIFF with its size; decoders leave missing ones black.

    Args:
        image: As Pillow opened it.
        data: The whole file.

    Raises:
        Truncated: If strips, tiles or rows of them are missing.
    """
    tags = image.tag_v2  # type: ignore[attr-defined]
    height = tags[HEIGHT]
    if TILE_OFFSETS in tags:
        offsets = tags[TILE_OFFSETS]
        across = -(-tags[WIDTH] // tags[TILE_WIDTH])
        expected = across * -(-height // tags[TILE_HEIGHT])
    else:
        offsets = tags.get(STRIP_OFFSETS)
        if offsets is None:  # of JPEG in the form of TIFF 6.0
            return
        rows = max(1, min(tags.get(ROWS_PER_STRIP, height), height))
        expected = -(-height // rows)
        if tags.get(COMPRESSION) == OF_JPEG:
            _check_jpegs(data, offsets, tags.get(STRIP_SIZES, ()), rows, height)
    if tags.get(PLANES) == SEPARATE:
        expected *= tags.get(SAMPLES, 1)
    if len(offsets) < expected:
        raise Truncated(f"it has {len(offsets)} of the {expected} strips or tiles of its size")


def _check_jpegs(
    data: jpeg.Bytes, offsets: tuple[int, ...], sizes: tuple[int, ...], rows: int, height: int
) -> None:
    for number, (offset, size) in enumerate(zip(offsets, sizes, strict=False)):
        expected = min(rows, height - number * rows)
        header = jpeg.read_header(data[offset : offset + size])
        if header is not None and header.height < expected:
            raise Truncated(f"its strip {number} has {header.height} of {expected} rows")


def unsupported_tiff(file: IO[bytes]) -> str:
    """Return a sentence about a TIFF whose kind is not read; empty if its header is broken.

    Args:
        file: The TIFF; its position changes.
    """
    import tifffile  # here, as its import is slow and few images need it

    try:
        file.seek(0)
        with tifffile.TiffFile(file) as tiff:
            page = cast(Any, tiff.pages.first)
            pixel = f"{page.samplesperpixel} x {page.dtype} a pixel ({page.photometric.name})"
            return f"a TIFF of {pixel} is not read: save it as a PNG of 8 or 16 bits"
    except Exception:  # a broken header raises anything
        return ""
