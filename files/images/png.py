"""PNG at the level of its chunks."""

from __future__ import annotations

import struct
import zlib
from typing import IO

HEADER = 33  # bytes of the signature and of the IHDR chunk
SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PROFILES = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts with EXIF or XMP
_head = struct.Struct(">I4s").unpack_from


def chunk_of(content: bytes) -> bytes:
    """Return a chunk, given as its name and content, with its length and checksum."""
    checksum = zlib.crc32(content)
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", checksum)


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
