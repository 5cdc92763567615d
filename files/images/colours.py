"""The colours of an image file as one ICC profile, whichever of its tags describe them.

A PNG has them as code points (cICP), profile (iCCP), sRGB, or gamma and primaries (gAMA, cHRM), in
this order of precedence; an AVIF as profile or code points (nclx). All formats hold a profile, so
the other tags are expressed as one. No tag means sRGB, as in browsers.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from files.images.boxes import box
from files.images.profiles import space_of

START = b"\x89PNG\r\n\x1a\n"
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")  # Pillow's modes
FULL_RANGE = 1
SRGB, UNSPECIFIED = 1, 2  # code points of ITU-T H.273

# White, red, green and blue, as x and y, by code point.
D65 = (0.3127, 0.3290)
PRIMARIES = {
    SRGB: (*D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    UNSPECIFIED: (*D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    4: (0.310, 0.316, 0.670, 0.330, 0.210, 0.710, 0.140, 0.080),  # NTSC of 1953
    5: (*D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),  # BT.601, 625 lines
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # BT.601, 525 lines
    7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # SMPTE 240M
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # DCI P3
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
    22: (*D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),  # EBU
}
# Exponents by code point; None for the curve of sRGB, by which browsers show those of video, too.
GAMMAS = dict.fromkeys((1, UNSPECIFIED, 6, 13, 14, 15)) | {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
D50 = (0.9642, 1.0, 0.8249)  # XYZ of a profile's white
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
CURVES = (b"rTRC", b"gTRC", b"bTRC")
Floats = NDArray[np.floating]
Bytes = bytes | bytearray | memoryview


def profile_of_tags(
    icc: bytes | None, code_points: bytes | None, info: Mapping[Any, Any], is_grey: bool
) -> tuple[bytes | None, bytes | None]:
    """Return the colours of a file as a profile, or as code points if no profile can express them.

    Args:
        icc: The file's own profile.
        code_points: Result of ``code_points_of``, if they precede the profile.
        info: Pillow's, with a PNG's other tags.
        is_grey: Whether the pixels are grey.

    Returns:
        The profile and the code points, at most one of them; neither for sRGB.
    """
    if code_points is not None:
        primaries, transfer, matrix, full_range = code_points
        is_rgb = matrix == 0 and full_range == FULL_RANGE
        if not is_rgb or primaries not in PRIMARIES or transfer not in GAMMAS:
            return None, code_points
        return profile_of(PRIMARIES[primaries], GAMMAS[transfer], is_grey), None
    if icc or "srgb" in info or not info.keys() & {"gamma", "chromaticity"}:
        return icc, None
    gamma = info.get("gamma", 0)
    stands_for_srgb = abs(2.2 * gamma - 1) <= 0.01
    exponent = 1 / gamma if 0.1 < gamma < 10 and not stands_for_srgb else None
    corners = info.get("chromaticity", PRIMARIES[SRGB])
    return profile_of(corners, exponent, is_grey), None


def code_points_of(file: IO[bytes]) -> bytes | None:
    """Return primaries, transfer, matrix and range of a PNG or AVIF, a byte each; None without.

    Args:
        file: Its position changes.
    """
    file.seek(0)
    head = file.read(12)
    if head.startswith(START):
        return _png_code_points(file)
    if head[4:8] != b"ftyp":
        return None
    data = head + file.read()
    colours = box(_properties(data), b"colr", b"nclx")
    if len(colours) < 10:
        return None
    primaries, transfer = struct.unpack_from(">HH", colours, 4)
    if max(primaries, transfer) > 255:
        return None
    # Decoding undoes matrix and range.
    return bytes([primaries, transfer, 0, FULL_RANGE])


def _png_code_points(file: IO[bytes]) -> bytes | None:
    """Return the content of a PNG's cICP chunk, which stands before its pixels."""
    position = len(START)
    while True:
        file.seek(position)
        length, name = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
        if name == b"cICP":
            content = file.read(4)
            return content if length == len(content) == 4 else None
        if name in (b"IDAT", b"IEND", bytes(4)):
            return None
        position += 12 + length


def avif_bits(data: Bytes) -> int:
    """Return the bits of a channel of an AVIF.

    Args:
        data: The whole file.
    """
    codec = box(_properties(bytes(data)), b"av1C")
    high, twelve = 0x40, 0x20
    if len(codec) < 3 or not codec[2] & high:
        return 8
    return 12 if codec[2] & twelve else 10


def _properties(data: bytes) -> bytes:
    """Return the properties of an AVIF's images: its box ``meta/iprp/ipco``."""
    meta = box(data, b"meta")[4:]  # after its version
    return box(box(meta, b"iprp"), b"ipco")


def profile_for_mode(icc: bytes, grey: bool) -> bytes | None:
    """Return a profile for grey or RGB that shows equal channels as ``icc`` does.

    A grey profile is converted to RGB, or back, only if all its curves are the same and it has no
    table.

    Args:
        icc: A profile for grey or RGB.
        grey: Whether the file that is written is grey.

    Returns:
        ``icc`` itself if it fits; None if the colours cannot be expressed.
    """
    if space_of(icc) == ("L" if grey else "RGB"):
        return icc
    tags = tags_of(icc)
    curve_names = CURVES if grey else (b"kTRC",)
    curves = {tags.get(name) for name in curve_names}
    has_table = b"A2B0" in tags or icc[20:24] != b"XYZ "
    if len(curves) > 1 or None in curves or has_table:
        return None
    return _build_profile(PRIMARIES[SRGB], tags[curve_names[0]], grey)


def tags_of(icc: bytes) -> dict[bytes, bytes]:
    """Return the content of a profile's tags by name; none of a broken one."""
    count = int.from_bytes(icc[128:132])
    table = icc[132 : 132 + 12 * count]
    tags = {}
    if len(table) == 12 * count:
        for name, start, size in struct.iter_unpack(">4sII", table):
            tags[name] = icc[start : start + size]
    return tags


def profile_of(primaries: tuple[float, ...], gamma: float | None, grey: bool) -> bytes | None:
    """Return a profile of these colours; None for sRGB, which needs none, or impossible ones.

    Args:
        primaries: x and y of white, red, green and blue.
        gamma: Exponent from levels to light; None for the curve of sRGB.
        grey: Whether the image is grey.
    """
    difference = np.abs(np.subtract(primaries, PRIMARIES[SRGB])).max()
    if gamma is None and (grey or difference < 1e-3):
        return None
    corners = np.reshape(primaries, (4, 2))
    red, green, blue = corners[1:]
    area = abs(np.linalg.det([green - red, blue - red]))
    if corners[:, 1].min() <= 0 or area < 1e-3:
        return None
    return _build_profile(primaries, _curve_of(gamma), grey)


def _curve_of(gamma: float | None) -> bytes:
    """Return the content of a curve's tag (parametricCurveType, ICC.1:2022, 10.18).

    Args:
        gamma: Exponent from levels to light; None for the curve of sRGB.
    """
    if gamma is not None:
        return b"para\0\0\0\0\0\0\0\0" + _fixed_point([gamma])
    numbers = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para\0\0\0\0\0\3\0\0" + _fixed_point(numbers)


def _build_profile(primaries: tuple[float, ...], curve: bytes, grey: bool) -> bytes:
    """Return an ICC profile of version 4.3 (ICC.1:2022, 7).

    Args:
        primaries: x and y of white, red, green and blue.
        curve: Content of the tag of all channels' curves.
        grey: Whether it is for grey images.
    """
    white, red, green, blue = (_xyz_of_chromaticity(x, y) for x, y in np.reshape(primaries, (4, 2)))
    gains = (BRADFORD @ D50) / (BRADFORD @ white)
    adaptation = np.linalg.inv(BRADFORD) @ np.diag(gains) @ BRADFORD  # from white to D50
    colours = np.stack([red, green, blue], axis=1)
    brightness = np.linalg.solve(colours, white)  # with which they add up to white
    red, green, blue = (adaptation @ (colours * brightness)).T
    tags = {
        b"desc": _text_tag("Colours of the original file"),
        b"cprt": _text_tag("No copyright"),
        b"wtpt": _xyz_tag(D50),
        b"chad": b"sf32\0\0\0\0" + _fixed_point(adaptation.ravel()),
    }
    if grey:
        tags[b"kTRC"] = curve
    else:
        tags |= {b"rXYZ": _xyz_tag(red), b"gXYZ": _xyz_tag(green), b"bXYZ": _xyz_tag(blue)}
        tags |= dict.fromkeys(CURVES, curve)
    table = struct.pack(">I", len(tags))
    body = b""
    body_start = 132 + 12 * len(tags)
    offsets: dict[bytes, int] = {}
    for name, content in tags.items():
        if content not in offsets:  # the three curves share theirs
            offsets[content] = body_start + len(body)
            body += content + bytes(-len(content) % 4)
        table += name + struct.pack(">II", offsets[content], len(content))
    header = struct.pack(">I4x4s4s", body_start + len(body), b"\x04\x30\0\0", b"mntr")
    header += b"GRAY" if grey else b"RGB "
    header += b"XYZ " + struct.pack(">6H4s28x", 2026, 1, 1, 0, 0, 0, b"acsp") + _fixed_point(D50)
    return header.ljust(128, b"\0") + table + body


def _xyz_of_chromaticity(x: float, y: float) -> Floats:
    """Return X, Y and Z of a colour with Y = 1."""
    return np.array([x / y, 1, (1 - x - y) / y])


def _fixed_point(values: Floats | Sequence[float]) -> bytes:
    """Return ICC's numbers of 32 bits, 16 of them after the point (s15Fixed16Number)."""
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))


def _xyz_tag(values: Floats | Sequence[float]) -> bytes:
    """Return the content of a tag with X, Y and Z (XYZType)."""
    return b"XYZ \0\0\0\0" + _fixed_point(values)


def _text_tag(text: str) -> bytes:
    """Return the content of a tag with an English text (multiLocalizedUnicodeType)."""
    letters = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(letters), 28) + letters
