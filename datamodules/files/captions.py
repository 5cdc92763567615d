"""Captions: from the bytes of a text file to text."""

from __future__ import annotations

import codecs

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # byte order marks


def parse_caption(data: bytes) -> str:
    r"""Return a caption without its byte order mark and surrounding space, its lines ended by \n.

    Args:
        data: The file: UTF-8, or UTF-16 with a byte order mark.

    Raises:
        ValueError: If it is neither.
    """
    encoding = "utf-16" if data.startswith(UTF_16) else "utf-8-sig"
    text = data.decode(encoding)
    if "\0" in text:
        raise ValueError(
            "its caption has zero bytes, as UTF-16 without a byte order mark: convert it, e.g. "
            "iconv -f utf-16le -t utf-8"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()
