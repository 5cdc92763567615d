"""Captions: from the bytes of a text file to text."""

from __future__ import annotations

import codecs

# Byte order marks; UTF-32's begins with UTF-16's.
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def caption_of(data: bytes) -> str:
    r"""Return a caption without its byte order mark and surrounding space, its lines ended by \n.

    Args:
        data: The file: UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Raises:
        ValueError: If it is neither.
    """
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    encoding = MARKS.get(mark, "utf-8")
    text = data[len(mark) :].decode(encoding)
    if "\0" in text:
        raise ValueError(
            "its caption has zero bytes, as UTF-16 without a byte order mark: convert it, e.g. "
            "iconv -f utf-16le -t utf-8"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()
