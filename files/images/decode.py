"""Decode bytes to RGB pixels: the header, the format's decoder, colours, and the right way up.

If a file has several frames or pages, the first one is the image, but for thumbnails in a TIFF.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from files.images import decoders, jpeg
from files.images.boxes import box
from files.images.colours import profile_of_tags
from files.images.deep import Pixels, eight_bits
from files.images.faults import Truncated, Unsupported
from files.images.header import MAX_TEXT, Header, header_of_pillow, open_header
from files.images.header import most_pixels as most_pixels
from files.images.profiles import image_of, space_of, to_srgb, upright
from files.paths import FORMATS as FORMATS
from files.paths import open_regular, read_bytes

# The first two bytes of a file; those with boxes have their name further on.
PNG, GIF, RIFF, BMP, TIFF_LITTLE, TIFF_BIG = b"\x89P", b"GI", b"RI", b"BM", b"II", b"MM"
STARTS = (jpeg.START, PNG, GIF, RIFF, BMP, TIFF_LITTLE, TIFF_BIG)

# Messages of decoders.
TRUNCATED = re.compile(
    r"[Tt]runcat|Premature end of JPEG|failed to read \d+ bytes|too small|Not enough|be reshaped"
)
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
        mode: ``L`` (grey), ``LA``, ``RGB`` or ``RGBA``.
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
        colours = self.rgb[..., 0] if self.mode in ("L", "LA") else self.rgb
        if self.alpha is None:
            return colours
        return cast(Pixels, np.dstack([colours, self.alpha]))

    def meta(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Return everything except ``rgb``, for the writer of results.

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
    name = os.fspath(path)
    with _errors_as_unreadable(name):
        data = read_bytes(path)
    return decode(data, name, srgb)


def read_size(file: str | os.PathLike[str] | IO[bytes]) -> tuple[int, int]:
    """Return (W, H) of the upright image from the file's header.

    Args:
        file: Its path, or the opened file.

    Raises:
        UnreadableImage: If the header cannot be read.
    """
    if not isinstance(file, str | os.PathLike):
        return _size_of_opened(file, "the image")
    name = os.fspath(file)
    with _errors_as_unreadable(name):
        opened = open_regular(file)
    with opened:
        return _size_of_opened(opened, name)


def _size_of_opened(file: IO[bytes], name: str) -> tuple[int, int]:
    with _errors_as_unreadable(name, file):
        return open_header(file).upright_size


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
    with _errors_as_unreadable(name, io.BytesIO(data)):
        if jpeg.plain_header(data, most_pixels()) is not None:
            plain = jpeg.read_strictly(data)
            if plain is not None:  # Pillow would find nothing more in it
                return DecodedImage(plain, alpha=None, icc=None, bit_depth=8, mode="RGB")
        header = open_header(io.BytesIO(data))
        samples = decoders.DECODERS[header.format](cast(bytes, data), header)
        return _decoded(header, samples, _lost_content(header, samples, data), srgb)


def reason_of(error: OSError) -> str:
    """Return why a file cannot be read, in a word or two: ``missing``, ``not a file``, ..."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    is_other_kind = error.errno in (errno.EINVAL, errno.EISDIR) and error.filename
    return "not a file" if is_other_kind else "unreadable"


@contextlib.contextmanager
def _errors_as_unreadable(name: str, file: IO[bytes] | None = None) -> Iterator[None]:
    """Raise every error as ``UnreadableImage``, with a reason that a user understands.

    The only place that handles what libraries raise: on arbitrary bytes that is anything, from
    ``struct.error`` to ``MemoryError``.

    Args:
        name: The image's name.
        file: The image, if it is open by now.

    Raises:
        UnreadableImage: If there is an error.
    """
    try:
        yield
    except Exception as error:
        reason, text = _diagnosis(error, file)
        raise UnreadableImage(f"{name}: {text}", reason) from error


def _diagnosis(error: Exception, file: IO[bytes] | None) -> tuple[str, str]:
    """Return the reason for counting, and the message.

    Args:
        error: What was raised.
        file: The file; None if it could not be opened.
    """
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:  # without it, a decoder's
        return reason_of(error), error.strerror or text
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return "too large", f"refused because of its size: {text}"
    if file is None:
        return "unreadable", text
    file.seek(0)
    start = file.read(HEADER_BYTES)
    if not start:
        return "empty", "the file is empty"
    if TOO_MUCH_TEXT.search(text):
        text = f"a text in it unpacks to more than {MAX_TEXT >> 20} MB: remove it"
        return "too large", text
    if isinstance(error, UnidentifiedImageError):
        return _unidentified(start)
    if isinstance(error, Unsupported | NotImplementedError) or UNSUPPORTED.search(text):
        return "unsupported", text
    if isinstance(error, Truncated | EOFError) or TRUNCATED.search(text):
        return "truncated", f"the file is truncated: {text}"
    has_sentence = isinstance(error, OSError | ValueError | RuntimeError | SyntaxError)
    if not has_sentence or isinstance(error, UnicodeError):
        text = f"its decoder stops with {type(error).__name__}"
    return "damaged", f"the file is damaged: {text}"


def _unidentified(start: bytes) -> tuple[str, str]:
    """Return the reason and the message for a file that no library opens."""
    header = jpeg.read_header(start)
    if header is not None and header.precision != 8:
        return "unsupported", f"a JPEG of {header.precision} bits is not read: save it as a PNG"
    if start[:2] in STARTS or start[4:8] == b"ftyp":
        return "damaged", "the file is damaged: its header is broken"
    return "not an image", f"not an image; expected one of {', '.join(FORMATS)}"


def from_pillow(image: Image.Image, srgb: bool = False) -> DecodedImage:
    """Return the upright pixels of an image that Pillow has opened or made, as ``decode`` does.

    Args:
        image: Of 8 or 16 bits a channel.
        srgb: As for ``decode``.

    Raises:
        UnreadableImage: If it was opened, but not read yet, and its file is damaged.
    """
    is_unread = getattr(image, "tile", None) and image.tell() == 0
    data = _file_of(image) if is_unread else None
    if data is not None:
        name = getattr(image, "filename", "") or "the image"
        return _with_bits_of_pillow(decode(data, name, srgb))
    return _decoded(header_of_pillow(image), decoders.samples_of_pillow(image), (), srgb)


def _file_of(image: Image.Image) -> bytes | None:
    """Return the bytes of the file that Pillow opened an image from; None if it is gone."""
    stream = getattr(image, "fp", None)
    if stream is None:
        path = getattr(image, "filename", "")
        return read_bytes(path) if os.path.isfile(path) else None
    position = stream.tell()
    stream.seek(0)
    data: bytes = stream.read()
    stream.seek(position)
    return data


def _with_bits_of_pillow(image: DecodedImage) -> DecodedImage:
    """Return an image with 8 bits; grey keeps 16, which Pillow has, too."""
    if image.bit_depth == 8 or image.mode == "L":
        return image
    alpha = None if image.alpha is None else eight_bits(image.alpha)
    return dataclasses.replace(image, rgb=eight_bits(image.rgb), alpha=alpha, bit_depth=8)


def _decoded(
    header: Header, samples: decoders.Samples, lost: tuple[str, ...], srgb: bool
) -> DecodedImage:
    """Return the upright image, with its colours as one profile.

    Args:
        header: The file's header.
        samples: Its pixels, as stored.
        lost: Its content that is not read.
        srgb: As for ``decode``.

    Raises:
        ValueError: If the header promised another size.
    """
    pixels = samples.pixels
    if pixels.shape[1::-1] != header.size:
        raise ValueError(f"it has {pixels.shape[1::-1]} pixels, and by its header {header.size}")
    pixels = upright(pixels, header.orientation)
    is_grey = pixels.shape[2] < 3
    icc, cicp = profile_of_tags(header.icc, header.code_points, header.info, is_grey)
    space = space_of(icc) if icc else None
    alpha = None
    rgb: Pixels
    if samples.inks:
        rgb = _cmyk_to_rgb(pixels, icc if space == "CMYK" else None)
        icc = None
    else:
        rgb = _without_alpha(pixels)
        if pixels.shape[2] in (2, 4):
            alpha = cast(Pixels, np.ascontiguousarray(pixels[..., -1]))
        if space != "RGB" and not (space == "L" and is_grey):
            icc = None
    if icc and srgb:
        stored = eight_bits(rgb)
        converted = to_srgb(stored[..., 0] if space == "L" else stored, icc)
        if converted is not None:
            lost += ("bits beyond 8",) if rgb.dtype != np.uint8 else ()
            rgb, icc = converted, None
            alpha = None if alpha is None else eight_bits(alpha)
    return DecodedImage(
        rgb=rgb,
        alpha=alpha,
        icc=None if space == "L" else icc,
        bit_depth=8 * rgb.dtype.itemsize,
        mode=("L" if is_grey else "RGB") + ("" if alpha is None else "A"),
        grey_icc=icc if space == "L" else None,
        exif=header.exif,
        cicp=cicp,
        lost=lost,
    )


def _without_alpha(pixels: Pixels) -> Pixels:
    """Return (H, W, 3) RGB of grey, RGB, or either with alpha."""
    if pixels.shape[2] == 3:
        return pixels
    import cv2  # ten times as fast as NumPy

    if pixels.shape[2] == 4:
        return cast(Pixels, cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB))
    return cast(Pixels, cv2.cvtColor(pixels[..., :1], cv2.COLOR_GRAY2RGB))


def _lost_content(header: Header, samples: decoders.Samples, data: jpeg.Bytes) -> tuple[str, ...]:
    """Return the content of a file that is not read, in words for counting."""
    lost = list[str]()
    if header.more:
        lost.append("further frames or pages")
    if samples.more:
        lost.append("further channels")
    if _has_gain_map(header, bytes(data)):
        lost.append("gain map, by which HDR displays brighten them")
    return tuple(lost)


def _has_gain_map(header: Header, data: bytes) -> bool:
    if header.format in ("AVIF", "HEIF"):
        return GAIN_MAP_BRAND in box(data, b"ftyp") or GAIN_MAPS[-1] in data
    further_images = "mp" in header.info
    return further_images and any(name in data for name in GAIN_MAPS)


def _cmyk_to_rgb(inks: Pixels, icc: bytes | None) -> NDArray[np.uint8]:
    """Return (H, W, 3) sRGB of (H, W, 4) CMYK; without a profile by Pillow's formula."""
    levels = eight_bits(inks)
    converted = None if icc is None else to_srgb(levels, icc)
    if converted is not None:
        return converted
    return np.asarray(image_of(levels, "CMYK").convert("RGB"))
