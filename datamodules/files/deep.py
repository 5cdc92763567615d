"""Decode 16-bit PNG and TIFF with their colour profiles.

Pillow converts 8 bits only. Profiles of cameras and of editing spaces (Adobe RGB, Display P3,
ProPhoto) are three curves and a matrix (ICC.1:2022, 8.3.3 and annex F.3).
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.files import jpeg
from files.colours import tags_of
from files.image_profiles import SAME, space_of

log = logging.getLogger(__name__)
TOP = 65535
ROWS = 256  # converted at a time: floats take six times the memory of the pixels

# sRGB's primaries under D50, the white point of profiles, with the digits of sRGB's own profile.
SRGB = np.array(
    [
        [0.43606567, 0.38514709, 0.14306641],
        [0.22248840, 0.71687317, 0.06060791],
        [0.01391602, 0.09707642, 0.71409607],
    ]
)

# Parameters of a parametric curve of each type, in their order (10.18).
PARAMETERS = ("g", "gab", "gabc", "gabcd", "gabcdef")
Floats = NDArray[np.floating[Any]]


def to_srgb_16(pixels: NDArray[np.uint16], icc: bytes) -> NDArray[np.uint16] | None:
    """Convert 16-bit pixels from their profile to sRGB, by relative colorimetry.

    Args:
        pixels: (H, W, 3); three equal channels if the profile is for grey.
        icc: Their profile.

    Returns:
        (H, W, 3); None if the profile is sRGB itself, broken, or one of tables: the pixels are
        then used unchanged.
    """
    try:
        convert = _conversion(icc)
    except (ValueError, KeyError, IndexError, struct.error) as error:
        log.debug("a colour profile of 16-bit pixels is not used: %s", error)
        return None
    if _keeps_colours(convert, space_of(icc) == "L"):
        return None
    converted = np.empty_like(pixels)
    for first in range(0, len(pixels), ROWS):
        converted[first : first + ROWS] = convert(pixels[first : first + ROWS])
    return converted


def _conversion(icc: bytes) -> Callable[[NDArray[np.uint16]], NDArray[np.uint16]]:
    tags = tags_of(icc)
    grey = space_of(icc) == "L"
    if b"A2B0" in tags or icc[20:24] != b"XYZ " or space_of(icc) not in ("RGB", "L"):
        raise ValueError("it has tables in place of a matrix")
    names = (b"kTRC",) * 3 if grey else (b"rTRC", b"gTRC", b"bTRC")
    curves = [_curve(tags[name]).astype(np.float32) for name in names]
    matrix = np.eye(3)
    if not grey:
        columns = [_fixed(tags[name], 8, 3) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        matrix = np.linalg.inv(SRGB) @ np.stack(columns, axis=1)
    turned = matrix.T.astype(np.float32)

    def convert(pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
        linear = np.stack([curve[pixels[..., n]] for n, curve in enumerate(curves)], axis=-1)
        linear = np.clip(linear @ turned, 0, 1)
        # The sRGB standard's transfer function.
        curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        return np.rint(TOP * curved).astype(np.uint16)

    return convert


def _fixed(tag: bytes, start: int, count: int) -> Floats:
    return np.array(struct.unpack_from(f">{count}i", tag, start)) / 65536


def _curve(tag: bytes) -> Floats:
    """Return (65536,), the linear light of each level."""
    levels = np.linspace(0, 1, TOP + 1)
    if tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        names = PARAMETERS[kind]
        given = dict(zip(names, _fixed(tag, 12, len(names)), strict=True))
        return _parametric(levels, {**dict.fromkeys("abcdef", 0.0), "a": 1.0, **given}, kind)
    if tag[:4] != b"curv":
        raise ValueError(f"a curve of type {tag[:4]!r}")
    (count,) = struct.unpack_from(">I", tag, 8)
    if count == 0:
        return levels
    table = np.array(struct.unpack_from(f">{count}H", tag, 12))
    if count == 1:
        return np.asarray(levels ** (table[0] / 256))
    return np.interp(levels, np.linspace(0, 1, count), table / TOP)


def _parametric(x: Floats, p: dict[str, float], kind: int) -> Floats:
    a, b = p["a"], p["b"]
    upper = np.maximum(a * x + b, 0) ** p["g"]
    if kind == 0:
        return np.asarray(upper)
    if kind < 3:  # c is what is added, and the line below is flat
        return np.where(x >= -b / a, upper + p["c"], p["c"])
    return np.where(x >= p["d"], upper + p["e"], p["c"] * x + p["f"])


def _keeps_colours(convert: Callable[[NDArray[np.uint16]], NDArray[np.uint16]], grey: bool) -> bool:
    levels = np.linspace(0, TOP, 18).round().astype(np.uint16)
    colours = np.stack(np.meshgrid(*[levels] * 3), axis=-1).reshape(1, -1, 3)
    if grey:
        colours = np.repeat(levels[None, :, None], 3, axis=2)
    return bool(np.abs(convert(colours).astype(int) - colours).max() <= SAME * 257)


Pixels = NDArray[np.uint8] | NDArray[np.uint16]

# Meaning of the fourth sample of a TIFF's pixel (tag ExtraSamples); alpha if the tag is missing.
NO_ALPHA, PREMULTIPLIED, ALPHA = 0, 1, 2


class Unsupported(ValueError):  # noqa: N818  (names the state)
    """An intact image of a kind that is not supported."""


def png_16(image: Image.Image, data: jpeg.Bytes) -> tuple[Pixels, Pixels | None]:
    """Return RGB and, if it has one, alpha of a 16-bit PNG.

    Args:
        image: The opened image.
        data: The whole file.

    Raises:
        ValueError: If it is damaged; or any error of Pillow.
    """
    pixels = _opencv_16(data)
    if pixels is None:
        image.load()  # its error names the problem; OpenCV's does not
        raise ValueError("the 16-bit PNG is damaged")
    rgb, alpha = _split(pixels)
    hidden = image.info.get("transparency")
    if alpha is None and isinstance(hidden, int):  # a level of grey; OpenCV knows only a colour
        alpha = np.where(rgb[..., 0] == hidden, 0, TOP).astype(np.uint16)
    return rgb, alpha


def bits_of_tiff(image: Image.Image) -> tuple[int, ...]:
    """Return the bits of each sample of an opened TIFF."""
    return tuple(image.tag_v2.get(258, (1,)))  # type: ignore[attr-defined]  # BitsPerSample


def tiff_16(image: Image.Image, data: jpeg.Bytes) -> tuple[Pixels, Pixels | None]:
    """Return RGB and, if it has one, alpha of a TIFF of more than 8 bits.

    Args:
        image: The opened image.
        data: The whole file.

    Raises:
        Unsupported: If its samples are not 16-bit unsigned integers, or neither grey nor RGB.
        ValueError: If it is damaged; tifffile raises other errors, too.
    """
    import tifffile  # here, as its import is slow and few images have 16 bits

    bits, kinds = bits_of_tiff(image), image.tag_v2.get(339, (1,))  # type: ignore[attr-defined]
    if set(bits) != {16} or set(kinds) != {1} or image.mode[:4] not in ("I;16", "RGB", "RGBA"):
        raise Unsupported(_unsupported(f"mode {image.mode} with {bits} bits a sample"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = cast(Any, file.pages[image.tell()])
        planar, inverted = page.planarconfig == 2, page.photometric == 0
        extra = int(page.extrasamples[0]) if page.extrasamples else ALPHA
        try:
            pixels = page.asarray()
        except ValueError as error:
            # tifffile reads LZW only with a further package; OpenCV reads it, but not planes.
            usable = not planar and image.tell() == 0 and "imagecodecs" in str(error)
            read = _opencv_16(data) if usable else None
            if read is None:
                raise
            pixels = read
    pixels = np.moveaxis(pixels, 0, -1) if planar and pixels.ndim == 3 else pixels
    pixels = pixels.astype(np.uint16)  # big-endian files, too
    rgb, alpha = _split(TOP - pixels if inverted else pixels)
    if alpha is None or extra == NO_ALPHA:
        return rgb, None
    return (_divided(rgb, alpha) if extra == PREMULTIPLIED else rgb), alpha


def kind_of_tiff(data: bytes) -> str | None:
    """Describe a TIFF that Pillow cannot open; None if it is not a TIFF, or broken."""
    import tifffile  # as above

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            if page.dtype is None or file.is_bigtiff or not _is_whole(page, data):
                return None
            return _unsupported(f"{page.samplesperpixel} samples of {page.dtype} a pixel")
    except Exception:  # on arbitrary bytes it raises anything
        return None


def _is_whole(page: Any, data: bytes) -> bool:
    """Return whether a page's directory (not of a BigTIFF), its values and pixels are complete."""
    (count,) = struct.unpack_from(page.parent.byteorder + "H", data, page.offset)
    ends = [page.offset + 2 + 12 * count + 4]
    ends += [tag.valueoffset + tag.valuebytecount for tag in page.tags]
    ends += map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))
    return len(page.tags) == count and max(ends) <= len(data)


def _unsupported(kind: str) -> str:
    return (
        f"TIFF of {kind}; above 8 bits, only TIFFs of 16-bit unsigned integers in grey or RGB can "
        "be read: convert it"
    )


def _opencv_16(data: jpeg.Bytes) -> NDArray[np.uint16] | None:
    import cv2  # as above

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        return None
    if pixels.ndim == 3:
        pixels[..., :3] = pixels[..., 2::-1].copy()  # BGR(A) to RGB(A)
    return cast(NDArray[np.uint16], pixels)


def _split(pixels: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], NDArray[np.uint16] | None]:
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2), None
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None
    return np.ascontiguousarray(pixels[..., :3]), alpha


def _divided(rgb: NDArray[np.uint16], alpha: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Divide premultiplied colours by alpha; 0 where alpha is 0."""
    share = np.maximum(alpha, 1).astype(np.float64)[..., None] / TOP
    return np.minimum(np.rint(rgb / share), TOP).astype(np.uint16) * (alpha > 0)[..., None]
