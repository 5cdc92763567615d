"""PNG at the level of its chunks: checksums, missing rows, texts and metadata."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import IO

from PIL import Image

from files.images.faults import Truncated

Bytes = bytes | bytearray | memoryview
HEADER = 33  # bytes of the signature and of the IHDR chunk
SIGNATURE = b"\x89PNG\r\n\x1a\n"
DEPTH, INTERLACED = 24, 28  # offsets in the header
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PROFILES = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts with EXIF or XMP
ANCILLARY = 32  # this bit of a chunk's name marks chunks that decoding does not need
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
WHOLE = ((0, 0, 1, 1),)
# Left, top, and steps across and down of the passes of an interlaced image.
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_head = struct.Struct(">I4s").unpack_from
_checksum = struct.Struct(">I").unpack_from


def chunk_of(content: bytes) -> bytes:
    """Return a chunk, given as its name and content, with its length and checksum."""
    checksum = zlib.crc32(content)
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", checksum)


def check_chunks(png: Bytes) -> None:
    """Compare the checksum of every chunk that the pixels depend on.

    This takes a hundredth of the time of decoding.

    Args:
        png: The whole file.

    Raises:
        Truncated: If a chunk is incomplete.
        ValueError: If a checksum does not fit.
    """
    view = memoryview(png)
    for name, at, end in chunks_of(view):
        if name == b"tRNS" or not name[0] & ANCILLARY:
            text = name.decode("latin-1")
            if end + 4 > len(view):
                raise Truncated(f"it ends in its chunk {text}")
            if zlib.crc32(view[at + 4 : end]) != _checksum(view, end)[0]:
                raise ValueError(f"the checksum of its chunk {text} at byte {at} does not fit")


def check_rows(png: Bytes, image: Image.Image) -> None:
    """Compare the pixels that a PNG holds with its header; Pillow leaves missing rows empty.

    Unpacking takes half the time of decoding, so only images whose last row is empty are unpacked.

    Args:
        png: The whole file.
        image: As Pillow read it.

    Raises:
        Truncated: If rows are missing.
    """
    last_row = image.crop((0, image.height - 1, *image.size))
    if png[INTERLACED] or last_row.getbbox(alpha_only=False) is None:
        check_size(png)


def check_size(png: Bytes) -> None:
    """As ``check_rows``, for an image that Pillow has not read."""
    view = memoryview(png)
    packed = b"".join(view[at + 8 : end] for name, at, end in chunks_of(view) if name == b"IDAT")
    expected = _unpacked_size(png)
    size = len(zlib.decompressobj().decompress(packed, expected))
    if size < expected:
        raise Truncated(f"its pixels are {size} bytes, and by its header {expected}")


def _unpacked_size(png: Bytes) -> int:
    width, height, depth, colours, _, _, interlaced = struct.unpack_from(">IIBBBBB", png, 16)
    bits = depth * CHANNELS[colours]
    size = 0
    for left, top, across, down in ADAM7 if interlaced else WHOLE:
        columns = -(-(width - left) // across)
        rows = -(-(height - top) // down)
        if columns > 0 and rows > 0:
            filter_type = 1
            size += rows * (filter_type + -(-columns * bits // 8))
    return size


def without_texts(png: Bytes) -> bytes:
    """Drop texts and colour profile, in which OpenCV allows 8 MB."""
    view = memoryview(png)
    rest = [view[: len(SIGNATURE)]]
    for name, at, end in chunks_of(view):
        if name not in (*TEXTS, b"iCCP"):
            rest.append(view[at : end + 4])
    return b"".join(rest)


def chunks_of(view: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk, its start, and where its checksum begins."""
    at, name = len(SIGNATURE), b""
    while name != b"IEND" and at + 8 <= len(view):
        length, name = _head(view, at)
        yield name, at, at + 8 + length
        at += 12 + length


def metadata_after_pixels(file: IO[bytes]) -> bool:
    """Return whether EXIF or XMP follows the pixels, as ImageMagick writes it, without decoding.

    Args:
        file: The PNG; its position changes.
    """
    at, pixels = len(SIGNATURE), False
    while True:
        file.seek(at)
        head = file.read(8 + max(map(len, PROFILES)))
        if len(head) < 8:
            return False
        length, name = _head(head)
        pixels |= name == b"IDAT"
        if pixels and (name == b"eXIf" or (name in TEXTS and head[8:].startswith(PROFILES))):
            return True
        if name == b"IEND":
            return False
        at += 12 + length


def scaled_transparency(image: Image.Image, file: IO[bytes]) -> None:
    """Scale the transparent level of 2 or 4 bits as Pillow scales the pixels, to 8 bits.

    Args:
        image: A PNG as Pillow opened it.
        file: Its file.
    """
    level = image.info.get("transparency")
    if image.mode == "L" and isinstance(level, int):
        place = file.tell()
        file.seek(DEPTH)
        white = 2 ** file.read(1)[0] - 1
        file.seek(place)
        image.info["transparency"] = (level & white) * 255 // white
