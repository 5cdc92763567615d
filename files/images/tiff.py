"""TIFF by tifffile: which page is the image, kinds that are not read, missing parts, and pixels."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import IO, Any, cast

import numpy as np
from PIL import Image

from files.images.deep import Pixels, divided, eight_bits, scaled
from files.images.exif import lasting_tags
from files.images.faults import Truncated, Unsupported, check_end
from files.images.profiles import image_of

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
RAW = "a camera's raw file is not read: develop it first (darktable-cli)"
SUBFILE_KIND, ICC_PROFILE, ORIENTATION, DNG_VERSION = 254, 34675, 274, 50706
NOT_AN_IMAGE = 1 | 4  # bits of SUBFILE_KIND: of reduced resolution, a mask
WHITE_IS_0, BLACK_IS_0, RGB, PALETTE, INKS, LUMA_CHROMA, LAB = 0, 1, 2, 3, 5, 6, 8  # photometric
SENSOR, LINEAR_SENSOR = 32803, 34892  # photometric kinds of cameras
COLOURS = {  # channels
    **{WHITE_IS_0: 1, BLACK_IS_0: 1, PALETTE: 1},
    **{RGB: 3, LUMA_CHROMA: 3, LAB: 3, INKS: 4},
}
UNCOMPRESSED, JPEGS, WEBP = 1, (6, 7), 50001
SEPARATE = 2  # planes
NO_ALPHA, PREMULTIPLIED, ALPHA = 0, 1, 2  # meanings of a further channel


def first_image_page(file: IO[bytes]) -> tuple[Any, bool]:
    """Return the first page that is neither a thumbnail nor a mask, and whether more follow.

    Without such a page, it is the first one.

    Args:
        file: The TIFF.

    Raises:
        Unsupported: If it is a camera's raw file.
        tifffile.TiffFileError: If its header is broken.
    """
    import tifffile  # here, as its import is slow

    tiff = tifffile.TiffFile(file)
    images: list[Any] = []
    for page in _undamaged_pages(tiff):
        if _is_raw(page):
            raise Unsupported(RAW)
        if not page.tags.valueof(SUBFILE_KIND, 0) & NOT_AN_IMAGE:
            images.append(page)
        if len(images) == 2:
            break
    return images[0] if images else tiff.pages.first, len(images) == 2


def _undamaged_pages(tiff: Any) -> Iterator[Any]:
    """Yield the pages up to a damaged one; the first is always intact."""
    with contextlib.suppress(Exception):
        yield from tiff.pages


def _is_raw(page: Any) -> bool:
    if DNG_VERSION in page.tags or page.photometric in (SENSOR, LINEAR_SENSOR):
        return True
    return any(_is_raw(below) for below in page.pages or ())


def orientation_of(page: Any) -> int:
    """Return a page's EXIF orientation, 1 (upright) to 8; 1 for an invalid one."""
    orientation = page.tags.valueof(ORIENTATION, 1)
    return int(orientation) if orientation in range(1, 9) else 1


def exif_of(page: Any) -> bytes | None:
    """Return the tags of a page that describe the image and not the file, as EXIF."""
    tags = Image.Exif()
    tags.endian, tags.bigtiff = page.parent.byteorder, page.parent.is_bigtiff

    file = page.parent.filehandle
    return lasting_tags(tags, lambda: tags.load_from_fp(file, page.offset))


def read_page(page: Any) -> tuple[Pixels, bool, bool]:
    """Read the pixels of a page.

    Args:
        page: tifffile's page, of a file that is still open.

    Returns:
        (H, W, C): grey, RGB, either with alpha, or CMYK with the highest level for full ink;
        whether they are CMYK; whether there are further channels.

    Raises:
        Unsupported: If its samples are not unsigned integers of at most 16 bits, or neither grey
            nor colour.
        Truncated: If a part is missing.
        Exception: Any error of the decoders.
    """
    _check_kind(page)
    _check_parts(page)
    planes = page.asarray(squeeze=False, maxworkers=1)[:, 0]  # (planes, H, W, channels of a plane)
    height, width = planes.shape[1:3]
    pixels = np.moveaxis(planes, 0, -1).reshape(height, width, -1)
    kind = page.photometric
    count = COLOURS[kind]
    levels = pixels if kind == PALETTE else scaled(pixels, page.bitspersample)
    colours: Pixels = levels[..., :count]
    further = levels[..., count:]
    if kind == PALETTE:
        palette = (np.asarray(page.colormap) >> 8).astype(np.uint8)
        colours = np.take(palette.T, colours[..., 0], axis=0)
    if kind == WHITE_IS_0:
        colours = np.iinfo(colours.dtype).max - colours
    if kind == LAB:
        colours = np.asarray(image_of(eight_bits(colours), "LAB").convert("RGB"))
    meaning = page.extrasamples[0] if page.extrasamples else ALPHA
    if kind == INKS or not further.size or meaning == NO_ALPHA:
        return colours, kind == INKS, bool(further.size)
    alpha = further[..., 0]
    if meaning == PREMULTIPLIED:
        colours = divided(colours, alpha)
    return cast(Pixels, np.dstack([colours, alpha])), False, further.shape[2] > 1


def _check_kind(page: Any) -> None:
    """Raise ``Unsupported`` unless the page's samples are of a kind that ``read_page`` reads."""
    from tifffile import TIFF

    kind, bits = page.photometric, page.bitspersample
    is_known = (
        kind in COLOURS
        and page.samplesperpixel >= COLOURS[kind]
        and page.sampleformat == 1
        and isinstance(bits, int)
        and bits <= (8 if kind in (PALETTE, LAB) else 16)
        and page.imagedepth == 1
        and (kind != LUMA_CHROMA or page.compression in JPEGS)
        and (page.compression == UNCOMPRESSED or page.compression in TIFF.DECOMPRESSORS)
    )
    if not is_known:
        name = getattr(kind, "name", kind)
        packing = getattr(page.compression, "name", page.compression)
        pixel = f"{page.samplesperpixel} x {page.dtype} a pixel ({name}, {packing})"
        raise Unsupported(f"a TIFF of {pixel} is not read: save it as a PNG of 8 or 16 bits")


def _check_parts(page: Any) -> None:
    """Raise ``Truncated`` if a strip or tile is missing; tifffile would leave it black."""
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    expected = math.prod(page.chunked)
    if page.planarconfig == SEPARATE and len(page.chunked) == 2:
        expected *= page.samplesperpixel
    if sum(size > 0 for _, size in places) < expected:
        raise Truncated(f"it has {len(places)} of the {expected} strips or tiles of its size")
    file = page.parent.filehandle
    height, width = page.chunks[:2]
    pixels = height * width if page.compression == WEBP else 0
    for start, size in itertools.islice(places, expected):
        if start + size > file.size:
            raise Truncated(f"it ends before its strip or tile at byte {start}")
        if page.compression != UNCOMPRESSED:
            file.seek(start)
            check_end(file.read(size), pixels)
