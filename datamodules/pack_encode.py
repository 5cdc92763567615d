"""Encode an image for a shard: the file's own bytes, or WebP (lossless), PNG, JPEG."""

from __future__ import annotations

import argparse
import io
import re
import struct
import zlib
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.decode import FORMATS, Picture
from files.png_text import open_image

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif"}  # of Pillow's formats, if not the lower-case name
PNG_HEADER = 33  # bytes of the signature and of the IHDR chunk
WEBP_SIDE = 16383  # largest side of a WebP in pixels
# On photographs, a third of the time of Pillow's defaults (54 ms of 162 for a WebP of a fifth of a
# megapixel, 22 of 57 for a PNG) for 1 % more bytes.
WEBP_EFFORT = {"method": 2, "quality": 50}  # in lossless mode, quality is effort as well
PNG_EFFORT = {"compress_level": 3}


class Refusal(ValueError):  # noqa: N818  (names the outcome)
    """An input is refused: the reason in a word or two, and a message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Encoding(NamedTuple):
    """The encoding of images: ``keep``, ``webp``, ``png`` or ``jpeg``, which has a quality."""

    kind: str
    quality: int = 0

    def __str__(self) -> str:
        """Return the encoding as on the command line."""
        return f"{self.kind}:{self.quality}" if self.kind == "jpeg" else self.kind


KEEP = Encoding("keep")


def parse_encoding(text: str) -> Encoding:
    """Parse ``keep``, ``webp``, ``png`` or ``jpeg:QUALITY``.

    Raises:
        ArgumentTypeError: If ``text`` is none of them.
    """
    match = re.fullmatch(r"(keep|webp|png)|jpeg:(\d{1,3})", text)
    if match is None or (match[2] and not 1 <= int(match[2]) <= 100):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an encoding; expected keep, webp, png, or jpeg:1 to jpeg:100"
        )
    return Encoding(match[1]) if match[1] else Encoding("jpeg", int(match[2]))


class Job(NamedTuple):
    """An image to write.

    Attributes:
        where: Its name in messages.
        extension: Extension of its file.
        data: Content of its file.
        picture: The decoded image.
        planes: Its changed colours, and alpha if present; None if it is unchanged.
        lossless: Whether to encode without loss, whatever the encoding is.
    """

    where: str
    extension: str
    data: bytes
    picture: Picture
    planes: list[Pixels] | None = None
    lossless: bool = False


class Made(NamedTuple):
    """An encoded image.

    Attributes:
        extension: Extension of its file.
        data: Content of its file.
        offsets: Offsets of its restart markers, as stored in a shard, or None.
        notes: Events to count.
    """

    extension: str
    data: bytes
    offsets: bytes | None = None
    notes: tuple[str, ...] = ()


def encode(job: Job, encoding: Encoding, restart_markers: bool) -> Made:
    """Encode an image. The file of an unchanged image is kept if it has the wanted format.

    Args:
        job: The image.
        encoding: The wanted encoding.
        restart_markers: Whether to give a JPEG restart markers.

    Raises:
        Refusal: If the encoding cannot hold the image.
    """
    format_ = format_of(job.data)
    if job.planes is None:
        if restart_markers and format_ == "JPEG":
            return _transcoded(job)
        same = encoding.kind.upper() == format_ and encoding.kind != "jpeg"
        if same or encoding.kind == "keep" or (job.lossless and encoding.kind == "jpeg"):
            notes = ("images kept without restart markers",) if restart_markers else ()
            return Made(job.extension, job.data, notes=notes)
    planes = job.planes
    if planes is None:
        alpha = job.picture.alpha
        planes = [job.picture.rgb] if alpha is None else [job.picture.rgb, alpha]
    kind = encoding.kind
    if kind == "keep" or (job.lossless and kind == "jpeg"):
        kind = "png"
    if kind == "jpeg":
        return _jpeg(job, planes, encoding.quality, restart_markers)
    data = _png(planes, job.picture.icc) if kind == "png" else _webp(job, planes)
    return Made(kind, data)


def format_of(data: bytes) -> str:
    """Return Pillow's name of an image file's format, or "" if it is not an image."""
    try:
        with open_image(io.BytesIO(data), FORMATS) as image:
            return image.format or ""
    except Exception:  # a broken header raises anything; the decoder reports the problem
        return ""


def extension_of(data: bytes) -> str:
    """Return the extension for an image file, from its bytes."""
    format_ = format_of(data)
    return EXTENSIONS.get(format_, format_.lower())


def pixels_of(data: bytes) -> int | None:
    """Return the number of pixels from an image's header; None if the header is broken."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # Pillow's refusal would hide the number
    try:
        with open_image(io.BytesIO(data), FORMATS) as image:
            return image.width * image.height
    except Exception:  # as in format_of
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


# ---------------------------------------------------------------------------------------- the kinds


def _transcoded(job: Job) -> Made:
    from datamodules.restart import restart_offsets, transcode_jpeg

    data = transcode_jpeg(job.data)
    try:
        offsets = restart_offsets(data if data is not None else job.data)
    except ValueError:
        return Made(job.extension, job.data, notes=("images kept without restart markers",))
    return Made(job.extension, data if data is not None else job.data, _packed(offsets))


def _jpeg(job: Job, planes: list[Pixels], quality: int, restart_markers: bool) -> Made:
    _check_depth(job, planes, "JPEG")
    rgb = cast(NDArray[np.uint8], np.ascontiguousarray(planes[0]))
    notes = ("images whose alpha was left out, as JPEG has none",) if len(planes) > 1 else ()
    if not restart_markers:
        return Made("jpg", _saved(rgb, "JPEG", {"quality": quality}), notes=notes)
    from datamodules.restart import encode_jpeg, restart_offsets

    data = encode_jpeg(rgb, quality)
    return Made("jpg", data, _packed(restart_offsets(data)), notes)


def _packed(offsets: NDArray[np.uint32]) -> bytes:
    return offsets.astype("<u4").tobytes()


def _webp(job: Job, planes: list[Pixels]) -> bytes:
    _check_depth(job, planes, "WebP")
    if max(planes[0].shape) > WEBP_SIDE:
        raise Refusal(
            "too large for WebP",
            f"{job.where}: {planes[0].shape[1]}x{planes[0].shape[0]}, but a WebP's sides have at "
            f"most {WEBP_SIDE} pixels: use --encode png, --crop or --max-long-side",
        )
    # exact: training sees the colours of transparent pixels.
    options = {"lossless": True, "exact": True, "icc_profile": job.picture.icc or b""}
    return _saved(_joined(planes), "WEBP", {**options, **WEBP_EFFORT})


def _check_depth(job: Job, planes: list[Pixels], kind: str) -> None:
    if planes[0].dtype != np.uint8:
        raise Refusal("16 bits", f"{job.where}: has 16 bits, but {kind} holds 8: use --encode png")


def _png(planes: list[Pixels], icc: bytes | None) -> bytes:
    if planes[0].dtype == np.uint8:
        return _saved(_joined(planes), "PNG", {"icc_profile": icc, **PNG_EFFORT})
    # Pillow writes no 16-bit colour. OpenCV does, but no profile: a chunk after the header.
    import cv2  # here, as its import is slow and few images have 16 bits

    planes = [planes[0][..., ::-1], *planes[1:]]
    done, encoded = cv2.imencode(".png", _joined(planes))
    if not done:
        raise ValueError(f"OpenCV cannot encode {planes[0].shape} of 16 bits as PNG")
    data = bytes(encoded.tobytes())
    if not icc:
        return data
    body = b"iCCP" + b"icc\0\0" + zlib.compress(icc)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:PNG_HEADER] + chunk + data[PNG_HEADER:]


def _joined(planes: list[Pixels]) -> Pixels:
    return cast(Pixels, np.ascontiguousarray(np.dstack(planes)))


def _saved(pixels: Pixels, format_: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format_, **options)
    return buffer.getvalue()
