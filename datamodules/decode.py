"""Bytes of a picture file to RGB pixels: the one place that knows file formats.

Pillow reads the header of every file and the pixels of most. It would cut 16-bit colour down to 8
bits in silence, so OpenCV reads 16-bit PNG and tifffile 16-bit TIFF. Where simplejpeg is installed
it reads the pixels of 8-bit colour JPEG, a tenth quicker: it is libjpeg-turbo, as in Pillow, and
gave the same bits for 6,400 photographs and for all chroma samplings (test_decode.py keeps watch);
whatever it refuses is read by Pillow.

Of a file with several frames or pages, the first is the picture.
"""

from __future__ import annotations

import io
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError, features

try:
    import simplejpeg
except ImportError:  # an optional extra
    simplejpeg = None

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

# Nothing else is opened: among Pillow's other formats are some that run a foreign program (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"}
)
QUICK_JPEG = simplejpeg is not None and features.check("libjpeg_turbo")


class UnreadableImage(ValueError):  # noqa: N818  (it says what the picture is)
    """A picture that cannot be read; the message names the file and the reason."""


@dataclass(frozen=True)
class Picture:
    """One decoded picture, upright (EXIF orientation is applied).

    Args:
        rgb: (H, W, 3), of 8 or 16 bits; not to be written to, it may lie in the decoder's memory.
        alpha: (H, W) of the same type, or None if the file has no transparency.
        icc: The file's colour profile, if it describes RGB (a profile for grey or CMYK does not fit
            the pixels any more). Pixels are not converted by it.
        bit_depth: 8 or 16.
        mode: The kind of pixels in the file, as Pillow names it, e.g. ``P`` or ``CMYK``.
    """

    rgb: Pixels
    alpha: Pixels | None
    icc: bytes | None
    bit_depth: int
    mode: str

    def meta(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """All but the colours, for the writer of results.

        Args:
            path: Where the picture came from.
        """
        return {
            "path": os.fspath(path),
            "alpha": self.alpha,
            "icc": self.icc,
            "bit_depth": self.bit_depth,
            "mode": self.mode,
        }


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read and decode a file.

    Raises:
        UnreadableImage: The file cannot be read or decoded.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{os.fspath(path)}: {error.strerror or error}") from error
    return decode(data, os.fspath(path))


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(W, H) of a picture when it is upright, from the header of its file.

    Raises:
        UnreadableImage: The header cannot be read.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            # Only where the tag can be had without the pixels, which a PNG's getexif would load.
            turned = image.info.keys() & {"exif", "xmp"} and _orientation(image) >= 5
    except Exception as error:  # as in decode
        raise UnreadableImage(f"{os.fspath(path)}: {error}") from error
    return (height, width) if turned else (width, height)


def decode(data: bytes, name: str) -> Picture:
    """Decode a picture file.

    Args:
        data: The whole file.
        name: What to call it in the message if it is broken.

    Raises:
        UnreadableImage: ``data`` is no picture, or a broken one, or of a kind that has no RGB form.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        rgb, alpha = _pixels(image, data)
        orientation = _orientation(image)
    # A decoder that is fed foreign bytes raises anything, from struct.error to MemoryError.
    except Exception as error:
        raise UnreadableImage(f"{name}: {_reason(data, error)}") from error
    icc = image.info.get("icc_profile")
    return Picture(
        rgb=_upright(rgb, orientation),
        alpha=None if alpha is None else _upright(alpha, orientation),
        icc=icc if icc and icc[16:20] == b"RGB " else None,  # the profile's colour space
        bit_depth=8 * rgb.dtype.itemsize,
        mode=image.mode,
    )


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return (
            f"no picture, or its header is broken: it starts with {data[:8]!r}; expected one of "
            + ", ".join(FORMATS)
        )
    if isinstance(error, Image.DecompressionBombError):
        return f"refused because of its size: {error}"
    return str(error) or type(error).__name__


def _pixels(image: Image.Image, data: bytes) -> tuple[Pixels, Pixels | None]:
    """RGB and, if there is one, alpha, as they lie in the file."""
    if image.format == "PNG" and data[24] == 16:  # the bit depth in the header chunk
        return _png_16(image, data)
    if image.format == "TIFF" and max(_tiff_bits(image)) > 8:
        return _tiff_16(image, data)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
    if image.mode == "RGB":
        return _jpeg(image, data) if image.format == "JPEG" else np.asarray(image), None
    return np.asarray(image.convert("RGB")), None


def _jpeg(image: Image.Image, data: bytes) -> NDArray[np.uint8]:
    if QUICK_JPEG:
        try:
            return simplejpeg.decode_jpeg(data)
        except ValueError:  # it is stricter than Pillow, which is to have the last word
            log.debug("left to Pillow: a JPEG that simplejpeg refuses")
    return np.asarray(image)


def _png_16(image: Image.Image, data: bytes) -> tuple[Pixels, Pixels | None]:
    pixels = _opencv_16(data)
    if pixels is None:
        image.load()  # says what is wrong; OpenCV does not
        raise ValueError("the 16-bit PNG is damaged")
    return _split(pixels)


def _opencv_16(data: bytes) -> NDArray[np.uint16] | None:
    import cv2  # here, because it takes long to import and few pictures have 16 bits

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        return None
    if pixels.ndim == 3:
        pixels[..., :3] = pixels[..., 2::-1].copy()  # BGR(A) to RGB(A)
    return cast(NDArray[np.uint16], pixels)


def _tiff_bits(image: Image.Image) -> tuple[int, ...]:
    return tuple(image.tag_v2.get(258, (1,)))  # type: ignore[attr-defined]  # BitsPerSample


def _tiff_16(image: Image.Image, data: bytes) -> tuple[Pixels, Pixels | None]:
    import tifffile  # here for the same reason as cv2

    bits, kinds = _tiff_bits(image), image.tag_v2.get(339, (1,))  # type: ignore[attr-defined]
    if set(bits) != {16} or set(kinds) != {1} or image.mode[:4] not in ("I;16", "RGB", "RGBA"):
        raise ValueError(
            f"TIFF of mode {image.mode} with {bits} bits a sample; of TIFFs with more than 8 bits, "
            "those of 16-bit unsigned integers in grey or RGB can be read: convert it"
        )
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        planar, inverted = page.planarconfig == 2, page.photometric == 0
        try:
            pixels = page.asarray()
        except ValueError as error:
            # tifffile knows LZW only with a further package; OpenCV knows it, but not planes.
            read = None if planar or "imagecodecs" not in str(error) else _opencv_16(data)
            if read is None:
                raise
            pixels = read
    pixels = np.moveaxis(pixels, 0, -1) if planar and pixels.ndim == 3 else pixels
    pixels = pixels.astype(np.uint16)  # out of big-endian files, too
    return _split(65535 - pixels if inverted else pixels)


def _split(pixels: NDArray[np.uint16]) -> tuple[Pixels, Pixels | None]:
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2), None
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None
    return np.ascontiguousarray(pixels[..., :3]), alpha


def _orientation(image: Image.Image) -> int:
    # After the pixels: Pillow turns a TIFF when it loads it, and then forgets the tag.
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # cameras write broken EXIF; no viewer refuses such a picture
        log.debug("broken EXIF is taken as upright: %s", error)
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return cast(Pixels, np.ascontiguousarray(pixels))
