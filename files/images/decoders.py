"""One decoder for each format.

========= ===================== ======================================================== =====
Format    Decoder               What it refuses                                          Bits
========= ===================== ======================================================== =====
JPEG      simplejpeg            all that libjpeg only warns about, missing scans         8
PNG       imagecodecs (libpng)  missing rows, wrong checksums                            16
WEBP      imagecodecs (libwebp) missing bytes, zeros at the end                          8
TIFF      tifffile, imagecodecs missing parts, zeros at the end, wrong Adler checksums   16
AVIF      imagecodecs (dav1d)   missing bytes, zeros at the end                          12
HEIF      pillow-heif (de265)   missing bytes, zeros at the end                          12
JXL       pillow-jxl (libjxl)   missing bytes, zeros at the end                          8
JPEG2000  imagecodecs (openjp2) missing bytes, zeros at the end                          16
GIF, BMP  Pillow                missing bytes, zeros at the end of a GIF                 8
========= ===================== ======================================================== =====

A bit that is flipped in a file without checksums often stays unseen: of WebP, AVIF, HEIC and most
JPEGs. All decoders give the pixels as they are stored, not turned, and in all bits that they have.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image

from files.images import jpeg, tiff
from files.images.boxes import without_padding
from files.images.colours import GREY, avif_bits
from files.images.deep import Pixels, divided, scaled
from files.images.faults import Unsupported, check_end
from files.images.header import Header

JPEG_COLOURS = {"L": "gray", "RGB": "rgb", "CMYK": "cmyk"}  # simplejpeg's names by Pillow's
J2K_SIZES = b"\xff\x4f\xff\x51"  # start of a JPEG 2000's codestream
J2K_DEPTH = 42  # from there to the bits of the first channel


class Samples(NamedTuple):
    """Pixels as stored in a file.

    Attributes:
        pixels: (H, W, C) of 8 or 16 bits: grey, RGB, either with alpha, or CMYK.
        inks: Whether they are CMYK, with the highest level for full ink.
        more: Whether there are further channels.
    """

    pixels: Pixels
    inks: bool = False
    more: bool = False


def samples_of_pillow(image: Image.Image) -> Samples:
    """Return the pixels of an image that Pillow has opened or made."""
    if image.mode == "CMYK":
        return Samples(np.asarray(image), inks=True)
    if image.mode.startswith("I;16"):
        return Samples(np.asarray(image, np.uint16)[..., None])
    mode = "L" if image.mode in GREY else "RGB"
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # Pillow's only way
        mode += "A"
    return Samples(_with_channels(np.asarray(image if image.mode == mode else image.convert(mode))))


def _with_channels(pixels: Pixels) -> Pixels:
    """Return (H, W, C) pixels: grey, which libraries give as (H, W), with one channel."""
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _jpeg(data: bytes, header: Header) -> Samples:
    """Decode strictly by simplejpeg; the few kinds that it does not read by Pillow."""
    image = header.opened
    colours = JPEG_COLOURS.get(image.mode)
    pixels = jpeg.read_strictly(data, colours) if colours else None
    if pixels is None:
        return samples_of_pillow(image)
    # CMYK JPEGs usually hold Adobe's inverted values, which Pillow inverts.
    return Samples(255 - pixels, inks=True) if image.mode == "CMYK" else Samples(pixels)


def _png(data: bytes, header: Header) -> Samples:
    import imagecodecs  # here and below, as its import is slow

    return Samples(_with_channels(imagecodecs.png_decode(data)))


def _webp(data: bytes, header: Header) -> Samples:
    """Decode the first frame by libwebp, after a look at the end of its coded pixels."""
    import imagecodecs

    view = memoryview(data)
    position = 12  # after the signature
    while position + 8 <= len(view):
        name, size = struct.unpack_from("<4sI", view, position)
        content = view[position + 8 : position + 8 + size]
        if name in (b"VP8 ", b"VP8L"):
            width, height = header.size
            check_end(content, width * height if name == b"VP8 " else 0)
            break
        # The chunk of an animation's frame holds chunks, after 16 bytes.
        position += 8 + (16 if name == b"ANMF" else len(content) + len(content) % 2)
    return Samples(_with_channels(imagecodecs.webp_decode(data, index=0)))


def _tiff(data: bytes, header: Header) -> Samples:
    return Samples(*tiff.read_page(header.opened))


def _avif(data: bytes, header: Header) -> Samples:
    import imagecodecs

    if header.more:  # imagecodecs 2026.3.6 writes beyond its memory for one frame of several
        return samples_of_pillow(header.opened)
    check_end(without_padding(data))
    pixels = imagecodecs.avif_decode(data)
    return Samples(_with_channels(scaled(pixels, avif_bits(data))))


def _heif(data: bytes, header: Header) -> Samples:
    import pillow_heif  # optional

    check_end(without_padding(data))
    stored = {"convert_hdr_to_8bit": False, "hdr_to_16bit": False}
    image: Any = pillow_heif.open_heif(io.BytesIO(data), **stored)
    pixels = _with_channels(scaled(np.asarray(image), image.info["bit_depth"]))
    if image.mode.startswith("RGBa"):
        colours = divided(pixels[..., :3], pixels[..., 3])
        pixels = cast(Pixels, np.dstack([colours, pixels[..., 3]]))
    return Samples(pixels)


def _jxl(data: bytes, header: Header) -> Samples:
    check_end(without_padding(data))
    return samples_of_pillow(header.opened)


def _jpeg2000(data: bytes, header: Header) -> Samples:
    import imagecodecs

    check_end(without_padding(data))
    pixels = _with_channels(imagecodecs.jpeg2k_decode(data))
    bits = 1 + (data[bytes(data).index(J2K_SIZES) + J2K_DEPTH] & 127)
    if pixels.dtype.kind != "u" or bits > 16:
        raise Unsupported(f"a JPEG 2000 of {bits} bits ({pixels.dtype}) is not read")
    inks = header.opened.mode == "CMYK"
    return Samples(scaled(pixels[..., :4], bits), inks, pixels.shape[2] > 4)


def _by_pillow(data: bytes, header: Header) -> Samples:
    return samples_of_pillow(header.opened)


DECODERS: dict[str, Callable[[bytes, Header], Samples]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "TIFF": _tiff,
    "AVIF": _avif,
    "HEIF": _heif,
    "JXL": _jxl,
    "JPEG2000": _jpeg2000,
    "GIF": _by_pillow,
    "BMP": _by_pillow,
}
