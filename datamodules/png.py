"""The chunks of a PNG: their checksums, and what comes behind the pixels.

Pillow does not look at the checksums of the pixels: it makes a wrong image of a file that ends in
zeros.
"""

from __future__ import annotations

import struct
import zlib
from typing import IO

from files.png_text import PROFILES, TEXTS

ANCILLARY = 32  # this bit of a chunk's name says that an image can be made without it
_chunk = struct.Struct(">I4s").unpack_from
_checksum = struct.Struct(">I").unpack_from


def check_png(data: bytes | bytearray | memoryview) -> None:
    """Compare the checksum of every chunk that the pixels depend on.

    It takes a hundredth of the time of decoding.

    Args:
        data: The whole file.

    Raises:
        ValueError: A checksum does not fit, or a chunk is not whole.
    """
    view, at, name = memoryview(data), 8, b""
    while name != b"IEND" and at + 8 <= len(view):
        length, name = _chunk(view, at)
        end = at + 8 + length
        if name == b"tRNS" or not name[0] & ANCILLARY:
            if end + 4 > len(view):
                raise ValueError(f"truncated in its chunk {name.decode('latin-1')}")
            if zlib.crc32(view[at + 4 : end]) != _checksum(view, end)[0]:
                chunk = f"{name.decode('latin-1')} at byte {at}"
                raise ValueError(f"damaged: the checksum of its chunk {chunk} does not fit")
        at = end + 4


def told_late(file: IO[bytes]) -> bool:
    """Whether EXIF or XMP comes behind the pixels, as ImageMagick writes it; nothing is decoded.

    Args:
        file: The PNG; it is then at another place than before.
    """
    at, pixels = 8, False
    while True:
        file.seek(at)
        head = file.read(8 + max(map(len, PROFILES)))
        if len(head) < 8:
            return False
        length, name = _chunk(head)
        pixels |= name == b"IDAT"
        if pixels and (name == b"eXIf" or (name in TEXTS and head[8:].startswith(PROFILES))):
            return True
        if name == b"IEND":
            return False
        at += 12 + length
