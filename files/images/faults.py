"""Faults of image files that have a reason of their own."""

from __future__ import annotations

# No encoder ends in more zeros than these, but for lossy WebP: it codes a flat area of 256 pixels
# in up to a bit, and these may all be zero.
MOST_ZEROS = 64
FLAT_PIXELS = 8 * 256  # for each further zero


class Unsupported(ValueError):  # noqa: N818  (names the state)
    """An intact image of a kind that is not supported."""


class Truncated(ValueError):  # noqa: N818  (names the state)
    """An image whose pixels end before its header says."""


def check_end(coded: bytes | memoryview, pixels: int = 0) -> None:
    """Refuse coded pixels that end in zeros.

    A copy that was stopped often has its full length, and zeros from there on. Decoders without a
    checksum make something of them.

    Args:
        coded: The coded pixels.
        pixels: Their number, if flat areas may be coded in zeros.

    Raises:
        Truncated: If they end in more zeros than an encoder writes.
    """
    most = MOST_ZEROS + pixels // FLAT_PIXELS
    if len(coded) > most and not bytes(coded[-most:]).strip(b"\0"):
        raise Truncated(f"its last {most} bytes are zeros, as in a copy that was stopped")
