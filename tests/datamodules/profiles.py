"""Colour profiles made from numbers, and their meaning, computed without a colour library."""

from __future__ import annotations

import struct

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])  # the white point of the profile connection space
# sRGB's primaries under D50 (IEC 61966-2-1, adapted by Bradford's matrix), and a wider set.
SRGB = np.array(
    [
        [0.43606567, 0.38514709, 0.14306641],
        [0.22248840, 0.71687317, 0.06060791],
        [0.01391602, 0.09707642, 0.71409607],
    ]
)
WIDE = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])


def _fixed(values):
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)


def _profile(space, connection, kind, tags):
    """The file format of ICC.1:2001: a header, a table of tags, the tags."""
    body = b""
    table = struct.pack(">I", len(tags))
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    head = struct.pack(">I4sI", start + len(body), b"none", 0x02400000)
    head += kind + space + connection + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp"
    head += bytes(28) + _fixed(D50)
    return head + bytes(128 - len(head)) + table + body


def _xyz(values):
    return b"XYZ \0\0\0\0" + _fixed(values)


def _curve(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def _text(words):
    ascii_ = words.encode() + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(ascii_)) + ascii_ + bytes(78)


def rgb_profile(primaries=WIDE, gamma=1.8):
    columns = {name: _xyz(primaries[:, n]) for n, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma))
    tags = {b"desc": _text("wide"), b"wtpt": _xyz(D50), **columns, **curves}
    return _profile(b"RGB ", b"XYZ ", b"mntr", tags)


def grey_profile(gamma=1.8):
    tags = {b"desc": _text("grey"), b"wtpt": _xyz(D50), b"kTRC": _curve(gamma)}
    return _profile(b"GRAY", b"XYZ ", b"mntr", tags)


def ink_lab(ink):
    """CIE L*a*b* of inks that are on (1) or off (0): invented, and unlike Pillow's arithmetic."""
    cyan, magenta, yellow, black = (np.asarray(ink)[..., n] for n in range(4))
    light = (100 - 20 * cyan - 25 * magenta - 5 * yellow) * (1 - 0.8 * black)
    first = (-20 * cyan + 30 * magenta) * (1 - black)
    second = (-20 * cyan - 5 * magenta + 40 * yellow) * (1 - black)
    return np.stack([light, first, second], axis=-1)


def ink_profile():
    """A table of the 16 mixtures of full inks (lut8Type)."""
    mixtures = np.array(np.meshgrid(*[[0, 1]] * 4, indexing="ij")).reshape(4, -1).T
    lab = ink_lab(mixtures)
    codes = np.stack([lab[:, 0] * 2.55, lab[:, 1] + 128, lab[:, 2] + 128], axis=1)
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(np.eye(3).ravel())
    table += 4 * ramp + codes.round().astype(np.uint8).tobytes() + 3 * ramp
    tags = dict.fromkeys((b"A2B0", b"A2B1"), table)
    tags = {b"desc": _text("inks"), b"wtpt": _xyz(D50), **tags}
    return _profile(b"CMYK", b"Lab ", b"prtr", tags)


def srgb_of_xyz(xyz):
    """(..., 3) XYZ under D50 to (..., 3) sRGB in [0, 255], by the standard's formulas."""
    linear = np.clip(xyz @ np.linalg.inv(SRGB).T, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255 * curved


def srgb_of_rgb(rgb, primaries=WIDE, gamma=1.8):
    return srgb_of_xyz((rgb / 255.0) ** gamma @ primaries.T)


def srgb_of_grey(grey, gamma=1.8):
    return srgb_of_xyz((grey[..., None] / 255.0) ** gamma * D50)


def srgb_of_inks(ink):
    lab = ink_lab(ink)
    middle = (lab[..., 0] + 16) / 116
    ratios = np.stack([middle + lab[..., 1] / 500, middle, middle - lab[..., 2] / 200], axis=-1)
    cubes = np.where(ratios > 6 / 29, ratios**3, 3 * (6 / 29) ** 2 * (ratios - 4 / 29))
    return srgb_of_xyz(cubes * D50)
