"""The chunks of a PNG: check their checksums, and find metadata after the pixels.

Pillow does not check the checksums of the pixels: it decodes a file that ends in zeros to a wrong
image.
"""

from __future__ import annotations

import struct
import zlib
from typing import IO

from files.png_text import PROFILES, TEXTS

ANCILLARY = 32  # this bit of a chunk's name marks chunks that decoding does not need
_chunk = struct.Struct(">I4s").unpack_from
_checksum = struct.Struct(">I").unpack_from


def check_png(data: bytes | bytearray | memoryview) -> None:
    """Compare the checksum of every chunk that the pixels depend on.

    This takes a hundredth of the time of decoding.

    Args:
        data: The whole file.

    Raises:
        ValueError: If a checksum does not fit, or a chunk is incomplete.
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


def metadata_after_pixels(file: IO[bytes]) -> bool:
    """Return whether EXIF or XMP follows the pixels, as ImageMagick writes it, without decoding.

    Args:
        file: The PNG; its position changes.
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
