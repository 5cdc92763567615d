"""PNG at the level of its chunks."""

from __future__ import annotations

import struct
import zlib
from typing import IO

HEADER = 33  # bytes of the signature and of the IHDR chunk
SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PROFILES = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts with EXIF or XMP
_length_and_name = struct.Struct(">I4s").unpack_from


def chunk_of(content: bytes) -> bytes:
    """Return a chunk of a PNG: its name and content, which are given, with length and checksum."""
    checksum = zlib.crc32(content)
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", checksum)


def has_metadata_after_pixels(file: IO[bytes]) -> bool:
    """Return whether EXIF or XMP follows the pixels of a PNG, as ImageMagick writes it.

    Pillow finds these only by decoding the pixels.

    Args:
        file: The PNG; its position changes.
    """
    position = len(SIGNATURE)
    after_pixels = False
    while True:
        file.seek(position)
        chunk = file.read(8 + max(map(len, PROFILES)))
        if len(chunk) < 8:
            return False
        length, name = _length_and_name(chunk)
        if name == b"IEND":
            return False
        if name == b"IDAT":
            after_pixels = True
        is_metadata = name == b"eXIf" or (name in TEXTS and chunk[8:].startswith(PROFILES))
        if after_pixels and is_metadata:
            return True
        position += 12 + length
