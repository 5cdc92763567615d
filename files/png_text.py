"""Open images: their colours, and PNGs whose text or profile is larger than Pillow accepts.

Some programs store workflows and editing histories in text chunks of a PNG. Pillow refuses a file
with a megabyte in one of them, although pixels do not depend on it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from typing import IO

from PIL import Image

from files.colours import START, code_points_of, describe
from files.paths import FORMATS, open_regular

log = logging.getLogger(__name__)

TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PROFILES = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts with EXIF or XMP
EXPANSION = 1032  # largest expansion of a byte by deflate
MAX_TEXT = 1 << 20  # bytes of text, or of a profile, that Pillow may expand
MAX_PROFILE = 8_000_000  # bytes of a colour profile that are read, as in libpng
MAX_METADATA = 1 << 22  # bytes of EXIF or XMP that are read
MAX_METADATA_CHUNKS = 4
NEW_SUBFILE_TYPE, ICC_PROFILE = 254, 34675  # tags of TIFF
NOT_AN_IMAGE = 1 | 4  # bits of the first: of reduced resolution, a mask
MORE = "more"  # key of `info`: whether frames or pages follow that are images, too
_head = struct.Struct(">I4s")


def open_image(
    file: str | os.PathLike[str] | IO[bytes],
    formats: tuple[str, ...] | None = None,
    name: str = "",
) -> Image.Image:
    """Open an image with Pillow, regardless of the size of text in a PNG.

    ``info`` has its colours, as ``files.colours.describe`` sets them, and ``MORE``. Of a TIFF it is
    the first page that is no thumbnail.

    Args:
        file: Path or open file.
        formats: As in ``Image.open``; by default all of ``files.paths.FORMATS``.
        name: Name of the image in a warning about an ignored colour profile; without it, there is
            no warning.

    Raises:
        OSError: It cannot be read, or is not an image. Pillow raises other errors, too.
    """
    _register()
    formats = tuple(FORMATS) if formats is None else formats
    if isinstance(file, str | os.PathLike):
        with open_regular(file) as opened:
            reduced, code_points = _without_large_chunks(opened, name), code_points_of(opened)
    else:
        reduced, code_points = _without_large_chunks(file, name), code_points_of(file)
        file.seek(0)
    data, profile = reduced or (None, None)
    image = Image.open(file if data is None else io.BytesIO(data), formats=formats)
    if profile is not None:
        image.info["icc_profile"] = profile
    if image.format == "TIFF" and getattr(image, "is_animated", False):
        _seek_image(image, file)
    elif image.format != "MPO":  # photographs with a preview or a gain map
        image.info[MORE] = getattr(image, "is_animated", False)
    describe(image, code_points)
    return image


@functools.cache
def _register() -> None:
    if "HEIF" in FORMATS:
        import pillow_heif

        pillow_heif.register_heif_opener()


def _seek_image(tiff: Image.Image, file: str | os.PathLike[str] | IO[bytes]) -> None:
    """Go to the first page that is neither a thumbnail nor a mask, if there is one."""
    found: list[int] = []
    # In a second object, which may be left in any state by a damaged page.
    with contextlib.suppress(Exception), Image.open(file, formats=("TIFF",)) as pages:
        for number in itertools.count():
            pages.seek(number)
            if not int(pages.tag_v2.get(NEW_SUBFILE_TYPE, 0)) & NOT_AN_IMAGE:  # type: ignore[attr-defined]
                found.append(number)
            if len(found) == 2:
                break
    tiff.seek(found[0] if found else 0)
    tiff.info[MORE] = len(found) == 2
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


def without_text(data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
    """Drop chunks that readers may refuse from a PNG; return other files unchanged.

    Args:
        data: The whole file.
    """
    reduced = _without_large_chunks(io.BytesIO(data), "")
    return data if reduced is None else reduced[0]


def _without_large_chunks(file: IO[bytes], called: str) -> tuple[bytes, bytes | None] | None:
    """Return a PNG without chunks that Pillow refuses, and its profile if that is among them.

    Return None for other files, and for a PNG without such chunks.
    """
    file.seek(0)
    if file.read(8) != START:
        return None
    kept: list[tuple[int, int] | bytes] = [(0, 8)]  # spans of the file, or new chunks
    profile, text, profiles = None, 0, 0
    at, name = 8, b""
    while name != b"IEND":
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            break
        length, name = _head.unpack(head)
        chunk: bytes | None = None  # replaces the chunk of the file
        if name in TEXTS and file.read(22).startswith(PROFILES):
            profiles += 1
            chunk = (
                _truncated(name, _content(file, at, length))
                if profiles <= MAX_METADATA_CHUNKS
                else b""
            )
        elif name in TEXTS:
            text += length
            chunk = None if text * EXPANSION <= MAX_TEXT else b""
        elif name == b"iCCP" and length * EXPANSION > MAX_TEXT:
            found = _expanded(_content(file, at, length).partition(b"\0")[2][1:])
            if len(found) > MAX_PROFILE:
                chunk = b""
                if called:
                    message = "%s: its colour profile of more than %d MB is ignored"
                    log.warning(message, called, MAX_PROFILE // 10**6)
            elif len(found) > MAX_TEXT:
                profile, chunk = found, b""
        kept.append((at, 12 + length) if chunk is None else chunk)
        at += 12 + length
    if all(isinstance(piece, tuple) for piece in kept):
        return None
    return b"".join(_read(file, piece) for piece in [*kept, (at, -1)]), profile


def _read(file: IO[bytes], piece: tuple[int, int] | bytes) -> bytes:
    if isinstance(piece, bytes):
        return piece
    file.seek(piece[0])
    return file.read(piece[1])


def _content(file: IO[bytes], at: int, length: int) -> bytes:
    file.seek(at + 8)
    return file.read(min(length, MAX_PROFILE))


def _truncated(name: bytes, content: bytes) -> bytes | None:
    """Truncate an EXIF or XMP chunk that Pillow would refuse; None for other chunks."""
    key, _, rest = content.partition(b"\0")
    if name == b"zTXt":
        packed, plain = rest[1:], b"tEXt" + key + b"\0"
    elif name == b"iTXt" and rest[:1] == b"\1":
        packed, plain = rest[2:].split(b"\0", 2)[-1], b"iTXt" + key + bytes(5)
    else:  # not compressed
        return png_chunk(name + content[:MAX_METADATA]) if len(content) > MAX_METADATA else None
    found = _expanded(packed) if len(packed) * EXPANSION > MAX_TEXT else b""
    return png_chunk(plain + found[:MAX_METADATA]) if len(found) > MAX_TEXT else None


def png_chunk(body: bytes) -> bytes:
    """Return a chunk of a PNG from its name and content: with its length and checksum."""
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _expanded(packed: bytes) -> bytes:
    """Decompress up to one byte more than ``MAX_PROFILE``; empty if damaged."""
    try:
        return zlib.decompressobj().decompress(packed, MAX_PROFILE + 1)
    except zlib.error:
        return b""
