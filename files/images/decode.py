"""Decode bytes to RGB pixels.

Pillow reads the headers and pixels of most files. It silently reduces deeper colour to 8 bits, so
OpenCV reads such PNG and AVIF, tifffile TIFF, and pillow-heif HEIC. simplejpeg reads the pixels of
8-bit JPEG for two reasons. It is the fastest: 633 us for a photograph of 481x321, against 641 with
OpenCV or torchvision and 765 with Pillow; all four use libjpeg-turbo and gave the same bits for
6,400 photographs and for all chroma samplings (test_decode.py checks that). And it refuses what
libjpeg only warns about, such as an image that ends too early, where the others paint the rest
grey. Pillow reads the files that simplejpeg does not know, and the headers of all but JPEGs of
colour without metadata.

If a file has several frames or pages, the first one is the image, but for thumbnails in a TIFF.

Pillow checks neither the checksums of the pixels nor that all rows came: it decodes a file that
ends in zeros to a wrong image, and leaves missing rows black.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import re
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from files.images import jpeg
from files.images.colours import GREY, avif_bits, code_points_of, describe
from files.images.deep import Pixels, deep_pixels, eight_bits
from files.images.exif import tiff_exif
from files.images.faults import Truncated, Unsupported
from files.images.pillow import MAX_TEXT, MORE, open_image
from files.images.png import check_chunks, check_rows, metadata_after_pixels, scaled_transparency
from files.images.profiles import image_of, orientation_of, space_of, to_srgb, upright
from files.images.tiff import check_strips, unsupported_tiff
from files.paths import FORMATS as FORMATS
from files.paths import open_regular, read_bytes

CONVERTED = ("CMYK", "LAB")  # modes that become sRGB

# Pillow's names of the metadata that hold an image's orientation.
ORIENTED = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})

# The first two bytes of a file; AVIF has its name further on.
PNG, GIF, RIFF, BMP, TIFF_LITTLE, TIFF_BIG = b"\x89P", b"GI", b"RI", b"BM", b"II", b"MM"
STARTS = (jpeg.START, PNG, GIF, RIFF, BMP, TIFF_LITTLE, TIFF_BIG)

# Messages of decoders.
TRUNCATED = re.compile(r"[Tt]runcat|Premature end of JPEG|failed to read \d+ bytes")
UNSUPPORTED = re.compile(
    r"(?i)unsupported|not supported|not implemented|not available|unknown raw mode"
)
TOO_MUCH_TEXT = re.compile("MAX_TEXT_CHUNK|text chunks")

HEADER_BYTES = 1 << 16  # enough for the header of a JPEG

# Names that a second image is given by which the first is brightened on an HDR display.
GAIN_MAPS = (
    b"http://ns.adobe.com/hdr-gain-map/",
    b"urn:iso:std:iso:ts:21496",
    b"urn:com:apple:photo:2020:aux:hdrgainmap",
)
GAIN_MAP_BRAND = b"tmap"  # of AVIF and HEIC


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
        lost: Content of the file that is not read, in words for counting.
    """

    rgb: Pixels
    alpha: Pixels | None
    icc: bytes | None
    bit_depth: int
    mode: str
    grey_icc: bytes | None = None
    exif: bytes | None = None
    cicp: bytes | None = None
    lost: tuple[str, ...] = ()

    def array(self) -> Pixels:
        """Return (H, W) grey, or (H, W, 2 to 4): grey with alpha, RGB, RGB with alpha."""
        colours = self.rgb[..., 0] if self.mode in GREY else self.rgb
        if self.alpha is None:
            return colours
        return cast(Pixels, np.dstack([colours, self.alpha]))

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
            "lost": self.lost,
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
    if not isinstance(file, str | os.PathLike):
        return _size(file, "the image")
    name = os.fspath(file)
    try:
        opened = open_regular(file)
    except OSError as error:
        raise UnreadableImage(f"{name}: {error.strerror or error}", reason_of(error)) from error
    with opened:
        return _size(opened, name)


def _size(file: IO[bytes], name: str) -> tuple[int, int]:
    try:
        with open_image(file) as image:
            width, height = image.size
            # A PNG's getexif may load the pixels: it is called only if there is something to find.
            is_tagged = bool(image.info.keys() & ORIENTED)
            if image.format == "PNG" and not is_tagged:
                is_tagged = metadata_after_pixels(file)
            # Pillow exchanges the sides of a TIFF itself.
            if is_tagged and image.format != "TIFF" and orientation_of(image) >= 5:
                return height, width
            return width, height
    except Exception as error:  # as in decode
        raise _unreadable(name, file, error) from error


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
        if jpeg.plain_header(data, most_pixels()) is not None:
            plain = jpeg.read_strictly(data)
            if plain is not None:  # Pillow would find nothing more in it
                return DecodedImage(plain, alpha=None, icc=None, bit_depth=8, mode="RGB")
        image = open_image(io.BytesIO(data))
        pixels = _pixels(image, data, srgb)
        return _upright(image, pixels, orientation_of(image), _lost(image, data, pixels))
    # Decoders raise anything on arbitrary bytes, from struct.error to MemoryError.
    except Exception as error:
        raise _unreadable(name, io.BytesIO(data), error) from error


def most_pixels() -> float:
    """Return the most pixels that are decoded: twice the limit at which Pillow warns."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else float("inf")


def _unreadable(name: str, file: IO[bytes], error: Exception) -> UnreadableImage:
    reason, text = _diagnosis(file, error)
    return UnreadableImage(f"{name}: {text}", reason)


def _diagnosis(file: IO[bytes], error: Exception) -> tuple[str, str]:
    """Return the reason and the message."""
    if isinstance(error, OSError) and error.errno is not None:
        return reason_of(error), error.strerror or str(error)
    text = str(error) or type(error).__name__
    file.seek(0)
    start = file.read(HEADER_BYTES)
    if not start:
        return "empty", "the file is empty"
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return "too large", f"refused because of its size: {text}"
    if TOO_MUCH_TEXT.search(text):
        text = f"a text in it unpacks to more than {MAX_TEXT >> 20} MB: remove it"
        return "too large", text
    if isinstance(error, UnidentifiedImageError):
        return _unidentified(start, file)
    if isinstance(error, Unsupported | NotImplementedError) or UNSUPPORTED.search(text):
        return "unsupported", text
    if isinstance(error, Truncated | EOFError) or TRUNCATED.search(text):
        return "truncated", f"the file is truncated: {text}"
    worded = isinstance(error, OSError | ValueError | RuntimeError | SyntaxError)
    if not worded or isinstance(error, UnicodeError):
        text = f"its decoder stops with {type(error).__name__}"
    return "damaged", f"the file is damaged: {text}"


def _unidentified(start: bytes, file: IO[bytes]) -> tuple[str, str]:
    """Return the reason and the message for a file that Pillow does not open."""
    header = jpeg.read_header(start)
    if header is not None and header.precision != 8:
        return "unsupported", f"a JPEG of {header.precision} bits is not read: save it as a PNG"
    if start[:2] in (TIFF_LITTLE, TIFF_BIG) and (sentence := unsupported_tiff(file)):
        return "unsupported", sentence
    text = (
        f"not an image, or its header is broken: it starts with {start[:8]!r}; expected one of "
        + ", ".join(FORMATS)
    )
    is_image = start[:2] in STARTS or start[4:8] == b"ftyp"
    return "damaged" if is_image else "not an image", text


class _Raw(NamedTuple):
    """Pixels as stored in the file, with alpha if it has any, and the profile of ``rgb``."""

    rgb: Pixels
    alpha: Pixels | None = None
    icc: bytes | None = None
    grey_icc: bytes | None = None
    rounded: bool = False  # to 8 bits, as only those are converted to sRGB


def from_pillow(image: Image.Image, srgb: bool = False) -> DecodedImage:
    """Return the upright pixels of an image that Pillow has opened or made, as ``decode`` does.

    Args:
        image: Of 8 or 16 bits a channel.
        srgb: As for ``decode``; 16-bit grey is not converted.

    Raises:
        UnreadableImage: If it was opened, but not read yet, and its file is damaged.
    """
    data = _file_of(image)
    is_unread = getattr(image, "tile", None) and image.tell() == 0
    if is_unread and data is not None:
        name = getattr(image, "filename", "") or "the image"
        return _as_pillow(decode(data, name, srgb))
    copied = image.copy()  # with an `info` of its own
    code_points = None
    if data is not None:
        code_points = code_points_of(io.BytesIO(data))
        if image.format == "PNG":
            scaled_transparency(copied, io.BytesIO(data))
    describe(copied, code_points)
    return _upright(copied, _pixels(copied, None, srgb), orientation_of(image))


def _file_of(image: Image.Image) -> bytes | None:
    """Return the file that an image was opened from, if it can still be read."""
    stream = getattr(image, "fp", None)
    if stream is None:
        try:
            return read_bytes(getattr(image, "filename", ""))
        except OSError:
            return None
    position = stream.tell()
    stream.seek(0)
    data: bytes = stream.read()
    stream.seek(position)
    return data


def _as_pillow(image: DecodedImage) -> DecodedImage:
    """Return an image of 8 bits, as Pillow has them, but for grey."""
    if image.bit_depth == 8 or image.mode.startswith("I;16"):
        return image
    alpha = None if image.alpha is None else eight_bits(image.alpha)
    return dataclasses.replace(image, rgb=eight_bits(image.rgb), alpha=alpha, bit_depth=8)


def _upright(
    image: Image.Image, raw: _Raw, orientation: int, lost: tuple[str, ...] = ()
) -> DecodedImage:
    return DecodedImage(
        rgb=upright(raw.rgb, orientation),
        alpha=None if raw.alpha is None else upright(raw.alpha, orientation),
        icc=raw.icc,
        bit_depth=8 * raw.rgb.dtype.itemsize,
        mode=image.mode,
        grey_icc=raw.grey_icc,
        exif=tiff_exif(image) if image.format == "TIFF" else image.info.get("exif"),
        cicp=image.info.get("cicp"),
        lost=lost,
    )


def _lost(image: Image.Image, data: jpeg.Bytes, pixels: _Raw) -> tuple[str, ...]:
    """Return the content that is not read, in words for counting."""
    lost = list[str]()
    if image.info.get(MORE):
        lost.append("further frames or pages")
    if _has_gain_map(image, bytes(data)):
        lost.append("gain map, by which HDR displays brighten them")
    shallow = pixels.rgb.dtype == np.uint8
    if pixels.rounded or (shallow and image.format == "AVIF" and avif_bits(data) > 8):
        lost.append("bits beyond 8")
    return tuple(lost)


def _has_gain_map(image: Image.Image, data: bytes) -> bool:
    if image.format in ("AVIF", "HEIF"):
        brands = data[: int.from_bytes(data[:4])]
        return GAIN_MAP_BRAND in brands or GAIN_MAPS[-1] in data
    further_images = "mp" in image.info
    return further_images and any(name in data for name in GAIN_MAPS)


def _pixels(image: Image.Image, data: jpeg.Bytes | None, srgb: bool) -> _Raw:
    icc = image.info.get("icc_profile") or b""
    space = space_of(icc)
    rgb_icc = icc if space == "RGB" and image.mode not in CONVERTED else None
    grey_icc = icc if space == "L" and image.mode in GREY else None
    if data is None and image.mode.startswith("I;16"):
        grey = np.asarray(image, np.uint16)
        return _Raw(np.repeat(grey[..., None], 3, axis=2), grey_icc=grey_icc)
    if data is not None:
        _check_container(image, data)
        deep = deep_pixels(image, data)
        if deep is not None:
            rgb_16, alpha_16 = deep
            return _converted(_Raw(rgb_16, alpha_16, rgb_icc, grey_icc), srgb)
    if image.mode == "CMYK":
        return _Raw(_from_cmyk(image, data, icc if space == "CMYK" else None))
    rgb, alpha = _pixels_8(image, data)
    if data is not None and image.format == "PNG":
        check_rows(data, image)
    return _converted(_Raw(rgb, alpha, rgb_icc, grey_icc), srgb)


def _check_container(image: Image.Image, data: jpeg.Bytes) -> None:
    """Compare what a container says with what came, as far as its decoder does not."""
    if image.format == "PNG":
        check_chunks(data)
    if image.format == "TIFF":
        check_strips(image, data)


def _converted(raw: _Raw, srgb: bool) -> _Raw:
    """Return the pixels in sRGB; of 8 bits if they are converted, as Pillow converts no others."""
    icc = raw.icc or raw.grey_icc
    if icc is None or not srgb:
        return raw
    rgb = eight_bits(raw.rgb)
    converted = to_srgb(rgb if raw.icc else rgb[..., 0], icc)
    if converted is None:
        return raw
    alpha = None if raw.alpha is None else eight_bits(raw.alpha)
    return _Raw(converted, alpha, rounded=raw.rgb.dtype != np.uint8)


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
    if converted is not None:
        return converted
    return np.asarray(image_of(ink, "CMYK").convert("RGB"))


def _strictly(image: Image.Image, data: jpeg.Bytes | None, colors: str) -> NDArray[np.uint8] | None:
    # MPO is Pillow's name for a JPEG with further images after the first.
    if data is None or image.format not in ("JPEG", "MPO"):
        return None
    return jpeg.read_strictly(data, colors)
