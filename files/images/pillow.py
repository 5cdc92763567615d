"""Open images: their colours, and the page of a TIFF; PNGs of 16 bits, and their chunks."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import warnings
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from files.images.colours import code_points_of, describe
from files.images.png import HEADER, chunk_of, scaled_transparency
from files.paths import FORMATS, open_regular

# Bytes of a text, or of a colour profile, that a PNG may hold: some programs store workflows and
# editing histories there. Pillow refuses a file with more than a megabyte in one of them.
MAX_TEXT = 64 << 20
NEW_SUBFILE_TYPE, ICC_PROFILE = 254, 34675  # tags of TIFF
NOT_AN_IMAGE = 1 | 4  # bits of the first: of reduced resolution, a mask
MORE = "more"  # key of `info`: whether frames or pages follow that are images, too


def open_image(file: str | os.PathLike[str] | IO[bytes]) -> Image.Image:
    """Open an image with Pillow, in one of ``files.paths.FORMATS``.

    ``info`` has its colours, as ``colours.describe`` sets them, and ``MORE``. Of a TIFF it is
    the first page that is no thumbnail.

    Args:
        file: Path or open file.

    Raises:
        OSError: It cannot be read, or is not an image. Pillow raises other errors, too.
    """
    _prepare_pillow()
    if isinstance(file, str | os.PathLike):
        with open_regular(file) as opened:
            code_points = code_points_of(opened)
    else:
        code_points = code_points_of(file)
        file.seek(0)
    image = Image.open(file, formats=tuple(FORMATS))
    if image.format == "TIFF" and getattr(image, "is_animated", False):
        _seek_image(image, file)
    elif image.format != "MPO":  # photographs with a preview or a gain map
        image.info[MORE] = getattr(image, "is_animated", False)
    if image.format == "PNG" and image.fp is not None:
        scaled_transparency(image, image.fp)
    describe(image, code_points)
    return image


# Pillow's warnings about files: what cannot be read is an error, and other faults change no pixel.
WARNINGS = "Corrupt EXIF|Truncated File Read|Metadata Warning|Image appears to be a malformed MPO"


@functools.cache
def _prepare_pillow() -> None:
    warnings.filterwarnings("ignore", WARNINGS)
    PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT
    if "HEIF" in FORMATS:
        import pillow_heif

        pillow_heif.register_heif_opener()


def _seek_image(tiff: Image.Image, file: str | os.PathLike[str] | IO[bytes]) -> None:
    """Go to the first page that is neither a thumbnail nor a mask, if there is one."""
    numbers: list[int] = []
    # In a second object, which may be left in any state by a damaged page.
    with contextlib.suppress(Exception), Image.open(file, formats=("TIFF",)) as pages:
        for number in itertools.count():
            pages.seek(number)
            kind = int(pages.tag_v2.get(NEW_SUBFILE_TYPE, 0))  # type: ignore[attr-defined]
            if not kind & NOT_AN_IMAGE:
                numbers.append(number)
            if len(numbers) == 2:
                break
    tiff.seek(numbers[0] if numbers else 0)
    tiff.info[MORE] = len(numbers) == 2
    if ICC_PROFILE not in tiff.tag_v2:  # type: ignore[attr-defined]
        tiff.info.pop("icc_profile", None)  # of the thumbnail


@contextlib.contextmanager
def of_any_size() -> Iterator[None]:
    """Open images of any number of pixels: Enlarger's own outputs, or after a check.

    The limit is the whole process's, as Pillow keeps it.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def saved(pixels: NDArray[Any], format: str, **options: Any) -> bytes:
    """Return the file of 8-bit pixels: (H, W) grey, or (H, W, C).

    Args:
        pixels: The pixels.
        format: Pillow's name of the format, such as PNG.
        options: Pillow's options of it.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def png_of_16_bits(pixels: NDArray[np.uint16]) -> bytes:
    """Return the PNG of (H, W, C) pixels: grey, RGB, or RGB with alpha.

    Raises:
        ValueError: If the encoder fails.
    """
    # Pillow has no 16-bit colour.
    import cv2  # here, as its import is slow and few images have 16 bits

    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    done, data = cv2.imencode(".png", pixels[..., order])
    if not done:
        raise ValueError(f"OpenCV cannot encode {pixels.shape} {pixels.dtype} as PNG")
    return data.tobytes()


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """Return a PNG with chunks after its header, each given as its name and content."""
    return b"".join([png[:HEADER], *map(chunk_of, chunks), png[HEADER:]])


def profile_chunk(icc: bytes) -> bytes:
    """Return name and content of the chunk of a colour profile."""
    return b"iCCPicc\0\0" + zlib.compress(icc)
