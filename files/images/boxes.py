"""The boxes of an ISO base media file: AVIF, HEIC and JPEG 2000."""

from __future__ import annotations

import struct
from collections.abc import Iterator

Bytes = bytes | bytearray | memoryview


def box(data: Bytes, name: bytes, start: bytes = b"") -> bytes:
    """Return the content of the first box of a name; empty if there is none.

    Args:
        data: A file, or the content of a box.
        name: Four letters.
        start: Boxes of this name whose content begins otherwise are passed over.
    """
    for kind, content, _ in _boxes(memoryview(data)):
        if kind == name and content[: len(start)] == start:
            return bytes(content)
    return b""


def without_padding(data: Bytes) -> memoryview:
    """Return a file without zeros after its last box; all of a file without boxes."""
    view, last = memoryview(data), 0
    for kind, _, end in _boxes(view):
        if kind == bytes(4):
            return view[:last]
        last = end
    return view


def _boxes(view: memoryview) -> Iterator[tuple[bytes, memoryview, int]]:
    """Yield the name of each box in a file or box, its content, and the position of its end."""
    position = 0
    while position + 8 <= len(view):
        size, kind = struct.unpack_from(">I4s", view, position)
        header = 8
        if size == 1 and position + 16 <= len(view):
            (size,) = struct.unpack_from(">Q", view, position + 8)
            header = 16
        end = position + size if size else len(view)
        yield kind, view[position + header : end], end
        position = max(end, position + header)
