"""Decode bytes to RGB pixels.

Pillow reads the headers and pixels of most files. It silently reduces 16-bit colour to 8 bits, so
OpenCV reads 16-bit PNG and tifffile 16-bit TIFF. simplejpeg reads the pixels of 8-bit JPEG for two
reasons. It is the fastest: 633 us for a photograph of 481x321, against 641 with OpenCV or
torchvision and 765 with Pillow; all four use libjpeg-turbo and gave the same bits for 6,400
photographs and for all chroma samplings (test_decode.py checks that). And it refuses what libjpeg
only warns about, such as an image that ends too early, where the others paint the rest grey. Pillow
reads the files that simplejpeg does not know.

If a file has several frames or pages, the first one is the image, but for thumbnails in a TIFF.

Pillow does not check the checksums of the pixels: it decodes a file that ends in zeros to a wrong
image.
"""

from __future__ import annotations

import errno
import io
import os
import re
import struct
import zlib
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from files.clock import DECODING
from files.images import jpeg
from files.images.colours import GREY, code_points_of, describe
from files.images.deep import Pixels, Unsupported, deep_pixels, deep_to_srgb, eight_bits
from files.images.exif import tiff_exif
from files.images.pillow import MORE, TEXTS, open_image
from files.images.profiles import image_of, orientation_of, space_of, to_srgb, upright
from files.paths import FORMATS as FORMATS
from files.paths import open_regular, read_bytes

PROFILES = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts with EXIF or XMP
ANCILLARY = 32  # this bit of a chunk's name marks chunks that decoding does not need
_chunk = struct.Struct(">I4s").unpack_from
_checksum = struct.Struct(">I").unpack_from


def check_png(data: bytes | bytearray | memoryview) -> None:
    """Compare the checksum of every chunk that the pixels depend on.

    This takes a hundredth of the time of decoding.

    Args:
        data: The whole file.

    Raises:
        ValueError: If a checksum does not fit, or a chunk is incomplete.
    """
    view, at, name = memoryview(data), 8, b""
    while name != b"IEND" and at + 8 <= len(view):
        length, name = _chunk(view, at)
        end = at + 8 + length
        if name == b"tRNS" or not name[0] & ANCILLARY:
            if end + 4 > len(view):
                raise ValueError(f"truncated in its chunk {name.decode('latin-1')}")
            if zlib.crc32(view[at + 4 : end]) != _checksum(view, end)[0]:
                chunk = f"{name.decode('latin-1')} at byte {at}"
                raise ValueError(f"damaged: the checksum of its chunk {chunk} does not fit")
        at = end + 4


def metadata_after_pixels(file: IO[bytes]) -> bool:
    """Return whether EXIF or XMP follows the pixels, as ImageMagick writes it, without decoding.

    Args:
        file: The PNG; its position changes.
    """
    at, pixels = 8, False
    while True:
        file.seek(at)
        head = file.read(8 + max(map(len, PROFILES)))
        if len(head) < 8:
            return False
        length, name = _chunk(head)
        pixels |= name == b"IDAT"
        if pixels and (name == b"eXIf" or (name in TEXTS and head[8:].startswith(PROFILES))):
            return True
        if name == b"IEND":
            return False
        at += 12 + length


CONVERTED = ("CMYK", "LAB")  # modes that become sRGB

# Pillow's names of the metadata that hold an image's orientation.
ORIENTED = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})

# The first two bytes of a file; AVIF has its name further on.
PNG, GIF, RIFF, BMP, TIFF_LITTLE, TIFF_BIG = b"\x89P", b"GI", b"RI", b"BM", b"II", b"MM"
STARTS = (jpeg.START, PNG, GIF, RIFF, BMP, TIFF_LITTLE, TIFF_BIG)

# Messages of decoders.
TRUNCATED = re.compile(r"[Tt]runcat|Premature end of JPEG|failed to read \d+ bytes")
UNSUPPORTED = re.compile(r"(?i)unsupported|not supported|not implemented|not available")


class UnreadableImage(ValueError):  # noqa: N818  (names the state)
    """An image that cannot be read.

    Args:
        message: The file and the problem.
        reason: The same in a word or two, such as ``truncated``, for counting.
    """

    def __init__(self, message: str, reason: str = "damaged") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class DecodedImage:
    """One decoded image, upright (EXIF orientation is applied).

    Args:
        rgb: (H, W, 3) of 8 or 16 bits; read-only, as it may lie in the decoder's memory.
        alpha: (H, W) of the same type, or None if the file has no transparency.
        icc: The file's colour profile, if it describes ``rgb``; a profile for grey or CMYK does
            not, nor does any profile after a conversion to sRGB.
        bit_depth: 8 or 16.
        mode: Pillow's mode of the file's pixels, e.g. ``P`` or ``CMYK``.
        grey_icc: The file's colour profile, if it describes one of the three equal channels.
        exif: The file's EXIF, unchanged; for a TIFF, whose tags are its EXIF, the tags that
            describe the image and not the file.
        cicp: Code points of the colours if no profile can express them, as of HDR: primaries,
            transfer, matrix and range, a byte each.
        more: Whether the file has further frames or pages.
    """

    rgb: Pixels
    alpha: Pixels | None
    icc: bytes | None
    bit_depth: int
    mode: str
    grey_icc: bytes | None = None
    exif: bytes | None = None
    cicp: bytes | None = None
    more: bool = False

    def array(self) -> Pixels:
        """Return (H, W) grey, or (H, W, 2 to 4): grey with alpha, RGB, RGB with alpha."""
        colours = [self.rgb[..., 0] if self.mode in GREY else self.rgb]
        if self.alpha is not None:
            colours.append(self.alpha)
        return colours[0] if len(colours) == 1 else cast(Pixels, np.dstack(colours))

    def meta(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Return everything except the colours, for the writer of results.

        Args:
            path: The image's file.
        """
        return {
            "path": os.fspath(path),
            "alpha": self.alpha,
            "icc": self.icc or self.grey_icc,
            "bit_depth": self.bit_depth,
            "mode": self.mode,
            "exif": self.exif,
            "cicp": self.cicp,
            "more": self.more,
        }


def read_image(path: str | os.PathLike[str], srgb: bool = False) -> DecodedImage:
    """Read and decode a file.

    Args:
        path: The file.
        srgb: As for ``decode``.

    Raises:
        UnreadableImage: If the file cannot be read or decoded.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        message = f"{os.fspath(path)}: {error.strerror or error}"
        raise UnreadableImage(message, reason_of(error)) from error
    return decode(data, os.fspath(path), srgb)


def reason_of(error: OSError) -> str:
    """Return why ``open_regular`` does not open a file, in a word or two."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    other_kind = error.errno in (errno.EINVAL, errno.EISDIR) and error.filename
    return "not a file" if other_kind else "unreadable"


def read_size(file: str | os.PathLike[str] | IO[bytes]) -> tuple[int, int]:
    """Return (W, H) of the upright image from the file's header.

    Args:
        file: Its path, or the opened file.

    Raises:
        UnreadableImage: If the header cannot be read.
    """
    try:
        if isinstance(file, str | os.PathLike):
            with open_regular(file) as opened:
                return _size(opened)
        return _size(file)
    except Exception as error:  # as in decode
        reason = "too large" if isinstance(error, Image.DecompressionBombError) else "damaged"
        if isinstance(error, OSError) and error.errno is not None:
            reason = reason_of(error)
        name = os.fspath(file) if isinstance(file, str | os.PathLike) else "the image"
        raise UnreadableImage(
            f"{name}: {getattr(error, 'strerror', None) or error}", reason
        ) from error


def _size(file: IO[bytes]) -> tuple[int, int]:
    with open_image(file) as image:
        width, height = image.size
        # A PNG's getexif may load the pixels, so it is called only if there is something to find.
        tagged = image.info.keys() & ORIENTED or (
            image.format == "PNG" and metadata_after_pixels(file)
        )
        # Pillow exchanges the sides of a TIFF itself.
        turned = tagged and image.format != "TIFF" and orientation_of(image) >= 5
    return (height, width) if turned else (width, height)


@DECODING
def decode(data: jpeg.Bytes, name: str, srgb: bool = False) -> DecodedImage:
    """Decode an image file.

    Args:
        data: The whole file.
        name: The image's name in error messages.
        srgb: Convert pixels from the file's colour profile to sRGB, by relative colorimetry, as
            training and evaluation need one colour space. An sRGB profile changes nothing, and a
            broken one is ignored. 16-bit pixels that are converted become 8-bit ones. CMYK is
            always converted, as its RGB depends on a profile.

    Raises:
        UnreadableImage: If ``data`` is not an image, is broken, or is of a kind without RGB form.
    """
    try:
        image = open_image(io.BytesIO(data))
        return _upright(image, _pixels(image, data, srgb), orientation_of(image))
    # Decoders raise anything on arbitrary bytes, from struct.error to MemoryError.
    except Exception as error:
        reason, text = _diagnosis(data, error)
        raise UnreadableImage(f"{name}: {text}", reason) from error


def most_pixels() -> float:
    """Return the most pixels that are decoded: twice the limit at which Pillow warns."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else float("inf")


def _diagnosis(data: jpeg.Bytes, error: Exception) -> tuple[str, str]:
    """Return the reason and the message."""
    data, text = bytes(data), str(error) or type(error).__name__
    if not data:
        return "empty", "the file is empty"
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return "too large", f"refused because of its size: {text}"
    if isinstance(error, Unsupported | NotImplementedError) or UNSUPPORTED.search(text):
        return "unsupported", text
    known = data[:2] in STARTS or data[4:8] == b"ftyp"
    if isinstance(error, UnidentifiedImageError):
        text = (
            f"not an image, or its header is broken: it starts with {data[:8]!r}; expected "
            "one of " + ", ".join(FORMATS)
        )
        if not known:
            return "not an image", text
    if TRUNCATED.search(text):
        return "truncated", f"the file is truncated: {text}"
    return "damaged", text


class _Raw(NamedTuple):
    """Pixels as stored in the file, with alpha if it has any, and the profile of ``rgb``."""

    rgb: Pixels
    alpha: Pixels | None = None
    icc: bytes | None = None
    grey_icc: bytes | None = None


def from_pillow(image: Image.Image, srgb: bool = False) -> DecodedImage:
    """Return the upright pixels of an image that Pillow has opened or made, as ``decode`` does.

    Args:
        image: Of 8 or 16 bits a channel.
        srgb: As for ``decode``; 16-bit grey is not converted.
    """
    code_points = _code_points(image)  # before its file is closed
    copied = image.copy()  # with an `info` of its own
    describe(copied, code_points)
    return _upright(copied, _pixels(copied, None, srgb), orientation_of(image))


def _code_points(image: Image.Image) -> bytes | None:
    """Return the code points of the file that an image was opened from, if it can still be read."""
    if (stream := getattr(image, "fp", None)) is not None:
        place = stream.tell()
        try:
            return code_points_of(stream)
        finally:
            stream.seek(place)
    try:
        with open(getattr(image, "filename", ""), "rb") as file:
            return code_points_of(file)
    except OSError:
        return None


def _upright(image: Image.Image, raw: _Raw, orientation: int) -> DecodedImage:
    return DecodedImage(
        rgb=upright(raw.rgb, orientation),
        alpha=None if raw.alpha is None else upright(raw.alpha, orientation),
        icc=raw.icc,
        bit_depth=8 * raw.rgb.dtype.itemsize,
        mode=image.mode,
        grey_icc=raw.grey_icc,
        exif=tiff_exif(image) if image.format == "TIFF" else image.info.get("exif"),
        cicp=image.info.get("cicp"),
        more=image.info.get(MORE, False),
    )


def _pixels(image: Image.Image, data: jpeg.Bytes | None, srgb: bool) -> _Raw:
    icc = image.info.get("icc_profile") or b""
    space = space_of(icc)
    kept = icc if space == "RGB" and image.mode not in CONVERTED else None
    grey = icc if space == "L" and image.mode in GREY else None
    if data is None and image.mode.startswith("I;16"):
        return _Raw(np.repeat(np.asarray(image, np.uint16)[..., None], 3, 2), None, None, grey)
    if data is not None and image.format == "PNG":
        check_png(data)
    if data is not None and (deep := deep_pixels(image, data)) is not None:
        return _converted_16(_Raw(*deep, kept, grey), srgb)
    if image.mode == "CMYK":
        return _Raw(_from_cmyk(image, data, icc if space == "CMYK" else None))
    rgb, alpha = _pixels_8(image, data)
    described = rgb if kept else rgb[..., 0] if space == image.mode[0] == "L" else None
    converted = to_srgb(described, icc) if srgb and described is not None else None
    return _Raw(rgb, alpha, kept, grey) if converted is None else _Raw(converted, alpha)


def _converted_16(raw: _Raw, srgb: bool) -> _Raw:
    """Return the pixels in sRGB; of 8 bits if they are converted, as Pillow converts no others."""
    icc = raw.icc or raw.grey_icc
    converted = deep_to_srgb(raw.rgb, icc, not raw.icc) if srgb and icc else None
    if converted is None:
        return raw
    return _Raw(converted, None if raw.alpha is None else eight_bits(raw.alpha))


def _pixels_8(
    image: Image.Image, data: jpeg.Bytes | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return RGB and, if the image has one, alpha."""
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # Pillow's only way
        rgba = np.asarray(image.convert("RGBA"))
        return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
    rgb = _strictly(image, data, "rgb") if image.mode in ("RGB", "L") else None
    if rgb is None:
        rgb = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return rgb, None


def _from_cmyk(image: Image.Image, data: jpeg.Bytes | None, icc: bytes | None) -> NDArray[np.uint8]:
    ink = _strictly(image, data, "cmyk")
    # CMYK JPEGs usually hold Adobe's inverted values, which Pillow inverts.
    ink = np.asarray(image) if ink is None else 255 - ink
    converted = None if icc is None else to_srgb(ink, icc)
    return np.asarray(image_of(ink, "CMYK").convert("RGB")) if converted is None else converted


def _strictly(image: Image.Image, data: jpeg.Bytes | None, colors: str) -> NDArray[np.uint8] | None:
    # MPO is Pillow's name for a JPEG with further images after the first.
    if data is None or image.format not in ("JPEG", "MPO"):
        return None
    return jpeg.read_strictly(data, colors)
