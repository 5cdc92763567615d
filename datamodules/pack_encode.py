"""How the packer writes a picture: its bytes as they are, or WebP (lossless), PNG, JPEG."""

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

EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif"}  # of Pillow's formats, where they differ from the name
PNG_HEADER = 33  # bytes of the signature and of the IHDR chunk
WEBP_SIDE = 16383  # pixels of a WebP's side, at most
# On photographs, a third of the time of Pillow's defaults (54 ms of 162 for a WebP of a fifth of a
# megapixel, 22 of 57 for a PNG) for 1 % more bytes.
WEBP_EFFORT = {"method": 2, "quality": 50}  # without loss, this quality is effort as well
PNG_EFFORT = {"compress_level": 3}


class Refusal(ValueError):  # noqa: N818  (it says what happens)
    """An input that is not packed, and why: in a word or two, and in a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Encoding(NamedTuple):
    """How pictures are written: ``keep``, ``webp``, ``png`` or ``jpeg``, which has a quality."""

    kind: str
    quality: int = 0

    def __str__(self) -> str:
        """As it is given on the command line."""
        return f"{self.kind}:{self.quality}" if self.kind == "jpeg" else self.kind


KEEP = Encoding("keep")


def parse_encoding(text: str) -> Encoding:
    """An encoding from ``keep``, ``webp``, ``png`` or ``jpeg:QUALITY``.

    Raises:
        ArgumentTypeError: ``text`` is none of them.
    """
    match = re.fullmatch(r"(keep|webp|png)|jpeg:(\d{1,3})", text)
    if match is None or (match[2] and not 1 <= int(match[2]) <= 100):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no encoding; expected keep, webp, png, or jpeg:1 to jpeg:100"
        )
    return Encoding(match[1]) if match[1] else Encoding("jpeg", int(match[2]))


class Job(NamedTuple):
    """A picture to write.

    Attributes:
        where: What to call it in a message.
        extension: Of its file.
        data: Its file.
        picture: Its pixels.
        planes: Its colours, and alpha if there is one, after they were changed; or None.
        lossless: Whatever the encoding is, lose nothing.
    """

    where: str
    extension: str
    data: bytes
    picture: Picture
    planes: list[Pixels] | None = None
    lossless: bool = False


class Made(NamedTuple):
    """A picture that was written.

    Attributes:
        extension: Of its file.
        data: Its file.
        offsets: Of its restart markers, as they go into a shard, or None.
        notes: What is to be counted.
    """

    extension: str
    data: bytes
    offsets: bytes | None = None
    notes: tuple[str, ...] = ()


def encode(job: Job, encoding: Encoding, restart_markers: bool) -> Made:
    """Write a picture. What is of the wanted kind already, and unchanged, is kept as it is.

    Args:
        job: The picture.
        encoding: How.
        restart_markers: Whether a JPEG is to have restart markers.

    Raises:
        Refusal: The encoding cannot hold the picture.
    """
    format_ = format_of(job.data)
    if job.planes is None:
        if restart_markers and format_ == "JPEG":
            return _transcoded(job)
        same = encoding.kind.upper() == format_ and encoding.kind != "jpeg"
        if same or encoding.kind == "keep" or (job.lossless and encoding.kind == "jpeg"):
            notes = ("pictures kept without restart markers",) if restart_markers else ()
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
    """Pillow's name for the kind of a picture file, or "" if it is none."""
    try:
        with open_image(io.BytesIO(data), FORMATS) as image:
            return image.format or ""
    except Exception:  # a broken header raises anything; who decodes it says what is wrong
        return ""


def extension_of(data: bytes) -> str:
    """Extension for a picture file, from its bytes."""
    format_ = format_of(data)
    return EXTENSIONS.get(format_, format_.lower())


def pixels_of(data: bytes) -> int | None:
    """Pixels of a picture, from its header; None if that is broken."""
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
        return Made(job.extension, job.data, notes=("pictures kept without restart markers",))
    return Made(job.extension, data if data is not None else job.data, _packed(offsets))


def _jpeg(job: Job, planes: list[Pixels], quality: int, restart_markers: bool) -> Made:
    _check_depth(job, planes, "JPEG")
    rgb = cast(NDArray[np.uint8], np.ascontiguousarray(planes[0]))
    notes = ("pictures whose alpha was left out, as JPEG has none",) if len(planes) > 1 else ()
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
            f"{job.where}: {planes[0].shape[1]}x{planes[0].shape[0]}, and a WebP has at most "
            f"{WEBP_SIDE} pixels a side: --encode png, --crop or --max-long-side",
        )
    # exact: colours below transparent pixels are what training sees.
    options = {"lossless": True, "exact": True, "icc_profile": job.picture.icc or b""}
    return _saved(_joined(planes), "WEBP", {**options, **WEBP_EFFORT})


def _check_depth(job: Job, planes: list[Pixels], kind: str) -> None:
    if planes[0].dtype != np.uint8:
        raise Refusal("16 bits", f"{job.where}: has 16 bits, and {kind} holds 8: --encode png")


def _png(planes: list[Pixels], icc: bytes | None) -> bytes:
    if planes[0].dtype == np.uint8:
        return _saved(_joined(planes), "PNG", {"icc_profile": icc, **PNG_EFFORT})
    # Pillow has no 16-bit colour. OpenCV has, but no profile: a chunk right after the header.
    import cv2  # here, because it takes long to import and few pictures have 16 bits

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
