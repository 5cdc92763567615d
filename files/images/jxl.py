"""The header of a JPEG XL, which imagecodecs reads only together with the pixels."""

from __future__ import annotations

from typing import NamedTuple

from files.images.boxes import box
from files.images.faults import Unsupported

CODESTREAM = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
STARTS = (CODESTREAM, CONTAINER)
RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height
ALPHA, SPOT, FILTER = 0, 2, 5  # kinds of further channels
RGB, GREY = 0, 1
D65, SRGB = 1, 1
PRIMARIES = {1: 1, 9: 9, 11: 12}  # code points of ITU-T H.273 by JPEG XL's
HEADER_BYTES = 4096


class JxlHeader(NamedTuple):
    """The header of a JPEG XL.

    Attributes:
        size: (W, H) of the upright image.
        bits: Of a channel.
        code_points: Of its colours: primaries, transfer, matrix and range; None for sRGB.
        exif: As in its container.
        more: Whether it has several frames.
    """

    size: tuple[int, int]
    bits: int
    code_points: bytes | None
    exif: bytes | None
    more: bool


def read_header(data: bytes) -> JxlHeader:
    """Read the header, by ISO/IEC 18181-1, annex D.

    Args:
        data: The whole file.

    Raises:
        Unsupported: If its pixels or colours are of a kind that is not read.
    """
    exif = None
    stream = data
    if data.startswith(CONTAINER):
        stream = box(data, b"jxlc") or box(data, b"jxlp")[4:]
        exif = box(data, b"Exif")[4:] or None
    bits = _Bits(stream[len(CODESTREAM) : HEADER_BYTES])
    width, height = _size(bits)
    if bits.read(1):
        return JxlHeader((width, height), 8, None, exif, False)
    more = False
    if bits.read(1):
        if bits.read(3) >= 4:  # imagecodecs turns the image upright
            width, height = height, width
        if bits.read(1):
            _size(bits)  # in which to show it
        if bits.read(1):
            raise Unsupported("a JPEG XL with a preview is not read: save it as a PNG")
        more = bool(bits.read(1))
        if more:
            _skip_animation(bits)
    depth = _depth(bits)
    bits.read(1)
    for _ in range(bits.pick((0, 0), (0, 1), (4, 2), (12, 1))):
        _skip_channel(bits)
    bits.read(1)
    return JxlHeader((width, height), depth, _colours(bits), exif, more)


class _Bits:
    """Numbers of some bits, the lowest first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._at = int.from_bytes(data, "little"), 0

    def read(self, count: int) -> int:
        value = self._value >> self._at & ((1 << count) - 1)
        self._at += count
        return value

    def pick(self, *choices: tuple[int, int]) -> int:
        """Read which of four forms a number has, bits and offset, and the number."""
        count, offset = choices[self.read(2)]
        return offset + self.read(count)

    def name(self) -> int:
        """Read one of a list of names."""
        return self.pick((0, 0), (0, 1), (4, 2), (6, 18))


def _size(bits: _Bits) -> tuple[int, int]:
    is_small = bits.read(1)

    def side() -> int:
        if is_small:
            return 8 * (1 + bits.read(5))
        return bits.pick((9, 1), (13, 1), (18, 1), (30, 1))

    height = side()
    ratio = bits.read(3)
    if not ratio:
        return side(), height
    across, down = RATIOS[ratio - 1]
    return height * across // down, height


def _skip_animation(bits: _Bits) -> None:
    bits.pick((0, 100), (0, 1000), (10, 1), (30, 1))
    bits.pick((0, 1), (0, 1001), (8, 1), (10, 1))
    bits.pick((0, 0), (3, 0), (16, 0), (32, 0))
    bits.read(1)


def _depth(bits: _Bits) -> int:
    if bits.read(1):
        raise Unsupported("a JPEG XL of floats is not read: save it as a PNG of 16 bits")
    return bits.pick((0, 8), (0, 10), (0, 12), (6, 1))


def _skip_channel(bits: _Bits) -> None:
    if bits.read(1):
        return  # plain alpha
    kind = bits.name()
    _depth(bits)
    bits.pick((0, 0), (0, 3), (0, 4), (3, 1))
    bits.read(8 * bits.pick((0, 0), (4, 0), (5, 16), (10, 48)))
    if kind == ALPHA and bits.read(1):
        raise Unsupported("a JPEG XL of premultiplied colours is not read: save it as a PNG")
    if kind == SPOT:
        bits.read(4 * 16)
    if kind == FILTER:
        bits.pick((0, 1), (2, 0), (4, 3), (8, 19))


def _colours(bits: _Bits) -> bytes | None:
    """Return code points; None for sRGB."""
    if bits.read(1):
        return None
    has_profile = bits.read(1)
    space = bits.name()
    if not has_profile and space in (RGB, GREY):
        white = bits.name()
        primaries = bits.name() if space == RGB else SRGB
        has_gamma = bits.read(1)
        if white == D65 and primaries in PRIMARIES and not has_gamma:
            return bytes([PRIMARIES[primaries], bits.name(), 0, 1])
    raise Unsupported("a JPEG XL with a colour profile of its own is not read: save it as a PNG")
