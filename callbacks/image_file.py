"""Write image files atomically: 8 and 16 bit, grey or RGB, with alpha, profile and EXIF."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import IFD, Base

from files.owned import whole_file

Format = Literal["png", "jpg", "webp", "tiff"]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]

EIGHT_BIT: tuple[Format, ...] = ("jpg", "webp")  # formats that hold no 16 bits
OPAQUE: tuple[Format, ...] = ("jpg",)  # formats that hold no alpha
LARGEST: dict[Format, int] = {"jpg": 65500, "webp": 16383}  # pixels of a side; limits of encoders
LARGEST_EXIF = 65500  # bytes in a JPEG
# Bytes of a colour profile: readers of PNG ignore larger ones, and JPEG has 255 segments for it.
LARGEST_PROFILE: dict[Format, int] = {"png": 8_000_000, "jpg": 255 * 65519}
CLASSIC_TIFF = b"II*\0"  # its first bytes in little-endian files
OPTIONS: dict[Format, dict[str, Any]] = {
    "png": {"format": "PNG"},
    "jpg": {"format": "JPEG", "subsampling": 0},
    "webp": {"format": "WEBP"},
    "tiff": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
}
PNG_HEADER = 33  # bytes of the signature and of the IHDR chunk
EXIF_START = b"Exif\0\0"


class Extras(NamedTuple):
    """The content of a file besides pixels.

    icc: Colour profile; left out if it is for other pixels.
    exif: In the form that Pillow's ``encode`` takes.
    """

    icc: bytes | None = None
    exif: bytes | None = None


@contextlib.contextmanager
def long_name_errors() -> Iterator[None]:
    """Turn the disk's error for a long name into one about this output alone.

    Raises:
        ValueError: If the name is too long.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ValueError(
            "the output's name or path is longer than the disk allows: rename the input, or set a "
            "shorter writer.suffix or writer.folder"
        ) from error


def check_folder(folder: Path, to_write: bool = False) -> None:
    """Raise if outputs cannot be in a folder, before any work; nothing is created.

    Args:
        folder: It, or a part of its path, may be missing.
        to_write: Whether something will be written there.

    Raises:
        ValueError: If it is not a folder, or not writable.
    """
    if problem := why_no_folder(folder, to_write):
        raise ValueError(f"writer.folder is {str(folder)!r}, and {problem}; set another one")


def why_no_folder(folder: Path, to_write: bool) -> str:
    """Return the problem of an existing or future folder; empty without any.

    Args:
        folder: It, or a part of its path, may be missing.
        to_write: Whether something will be written there.
    """
    at = folder
    while not os.path.lexists(at) and at != at.parent:
        at = at.parent
    if not at.is_dir():
        return f"{at} is no folder"
    if to_write and not os.access(at, os.W_OK | os.X_OK):
        return f"nothing can be written in {at}: it is read-only, or another user's"
    return ""


def exists(path: Path) -> bool:
    """Return whether a path exists; a name that is too long for the disk does not."""
    try:
        return path.exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


@long_name_errors()
def write_image(
    path: Path,
    pixels: Pixels,
    extras: Extras,
    format: Format,
    quality: int,
    before: Callable[[], None] | None = None,
) -> None:
    """Write an image to a temporary file and move it to its place.

    Args:
        path: The file; its folder is created.
        pixels: (H, W, C) uint8 or uint16; C is 1 (grey), 2 (with alpha), 3 (RGB) or 4 (with alpha).
        extras: Other content of the file.
        format: File format. ``jpg`` has no alpha; ``jpg`` and ``webp`` have 8 bits only.
        quality: Quality of ``jpg`` and ``webp``, 1 to 100.
        before: Called when all bytes are on the disk, before the image appears in its place.

    Raises:
        ValueError: As for ``encode``, or if the name is too long for the disk.
        OSError: If the file could not be written.
    """
    data = encode(pixels, extras, format, quality)
    with whole_file(path, before) as file:
        file.write(data)


def encode(pixels: Pixels, extras: Extras, format: Format, quality: int) -> bytes:
    """Return the bytes of an image file. Args as ``write_image``.

    Raises:
        ValueError: If the format cannot hold these pixels, or its encoder fails.
    """
    channels, deep = pixels.shape[2], pixels.dtype == np.uint16
    if (deep and format in EIGHT_BIT) or (channels in (2, 4) and format in OPAQUE):
        raise ValueError(f"{format} cannot hold {channels} channels of {pixels.dtype}")
    if deep and channels == 2:
        pixels = pixels[..., [0, 0, 0, 1]]  # Pillow cannot read 16-bit grey with alpha
    icc = fitting_profile(extras.icc, pixels.shape[2])
    if deep:
        data = _png_16(pixels, icc, extras.exif) if format == "png" else _tiff_16(pixels, icc)
        return _tiff_with_exif(data, extras.exif)
    options = dict(OPTIONS[format])
    if format in ("jpg", "webp"):
        options["quality"] = quality
    if icc:
        options["icc_profile"] = icc
    if extras.exif and format != "tiff":
        options["exif"] = extras.exif
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(buffer, **options)
    except OSError as error:  # Pillow's class for encoder errors; no disk is involved
        raise ValueError(f"the encoder of {format} failed: {error}") from error
    return _tiff_with_exif(buffer.getvalue(), extras.exif)


def fitting_profile(icc: bytes | None, channels: int) -> bytes | None:
    """Return ``icc`` if its header's colour space has this many channels."""
    space = b"RGB " if channels >= 3 else b"GRAY"
    return icc if icc and icc[16:20] == space else None


def unwritable_reason(pixels: Pixels, finite: bool, format: Format) -> str:
    """Return why an image or a clip cannot be written; empty if it can.

    Args:
        pixels: (..., H, W, C).
        finite: Whether the output before rounding was finite.
        format: File format.
    """
    if not finite:
        return "the output has pixels that are not finite"
    side, most = max(pixels.shape[-3:-1]), LARGEST.get(format)
    if most is not None and side > most:
        return (
            f"{side} pixels are more than the {most} that a side of {format} can have: set "
            "writer.format png"
        )
    return ""


def holds_exif(exif: bytes, format: Format) -> bool:
    """Return whether a file of this format can hold the EXIF."""
    return format != "jpg" or len(exif) <= LARGEST_EXIF


def holds_profile(icc: bytes, format: Format) -> bool:
    """Return whether a file of this format can hold the colour profile."""
    return len(icc) <= LARGEST_PROFILE.get(format, len(icc))


def fitted_exif(exif: bytes, size: tuple[int, int], place: bool) -> bytes | None:
    """Return EXIF with the size of the image.

    Args:
        exif: From the data module, without the old size.
        size: (H, W) of the image.
        place: Whether to keep the place where it was taken.
    """
    tags = Image.Exif()
    tags.load(exif)
    details = dict(tags.get_ifd(IFD.Exif))
    if IFD.Interop in details:
        details[IFD.Interop] = tags.get_ifd(IFD.Interop)
    details[Base.ExifImageHeight], details[Base.ExifImageWidth] = size
    tags[IFD.Exif] = details
    if not place and IFD.GPSInfo in tags:
        del tags[IFD.GPSInfo]
    return tags.tobytes()


def _png_16(pixels: Pixels, icc: bytes | None, exif: bytes | None) -> bytes:
    # Pillow has no 16-bit colour. OpenCV has, but no extras: they are chunks after the header.
    import cv2  # here, because it takes long to import and few images have 16 bits

    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    done, encoded = cv2.imencode(".png", pixels[..., order])
    if not done:
        raise ValueError(f"OpenCV cannot encode {pixels.shape} {pixels.dtype} as PNG")
    data, chunks = encoded.tobytes(), b""
    if icc:
        chunks += _chunk(b"iCCP" + b"icc\0\0" + zlib.compress(icc))
    if exif:
        chunks += _chunk(b"eXIf" + exif.removeprefix(EXIF_START))
    return data[:PNG_HEADER] + chunks + data[PNG_HEADER:]


def _chunk(body: bytes) -> bytes:
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _tiff_16(pixels: Pixels, icc: bytes | None) -> bytes:
    import tifffile  # here for the same reason

    channels = pixels.shape[2]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels[..., 0] if channels == 1 else pixels,
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig=None if channels == 1 else "contig",
        extrasamples=["unassalpha"] if channels == 4 else None,
        compression="zlib",
        iccprofile=icc,
        metadata=None,
    )
    return buffer.getvalue()


def _tiff_with_exif(data: bytes, exif: bytes | None) -> bytes:
    """Return a TIFF with the tags of EXIF in its directory; other files unchanged.

    Neither Pillow, if it compresses, nor tifffile writes directories in directories. They and a new
    first directory are appended.
    """
    if exif is None or data[:4] != CLASSIC_TIFF:
        return data
    tags = Image.Exif()
    tags.load(exif)
    tags.endian = "<"
    (first,) = struct.unpack_from("<I", data, 4)
    own = _entries(data, first)
    data += bytes(-len(data) % 2)
    added = tags.tobytes(len(data))[len(EXIF_START) + len(CLASSIC_TIFF) + 4 :]
    entries = {**own, **_entries(added, 0)}
    data += added + bytes(-len(added) % 2)
    directory = [entries[tag] for tag in sorted(entries)]
    end = struct.pack("<H", len(directory)) + b"".join(directory) + bytes(4)
    return CLASSIC_TIFF + struct.pack("<I", len(data)) + data[8:] + end


def _entries(data: bytes, at: int) -> dict[int, bytes]:
    (count,) = struct.unpack_from("<H", data, at)
    entries = (data[at + 2 + 12 * n : at + 14 + 12 * n] for n in range(count))
    return {struct.unpack("<H", entry[:2])[0]: entry for entry in entries}
