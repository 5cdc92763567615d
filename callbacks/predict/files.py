"""Image and clip files of predict."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from PIL.ExifTags import IFD, Base
from torch import Tensor

from degradations.bicubic import resize
from files.images.alpha import on_white
from files.images.colours import GREY, fitted
from files.images.deep import Pixels, eight_bits
from files.images.pillow import png_of_16_bits, profile_chunk, saved, with_chunks
from files.owned import Known, whole_file, whole_folder

Format = Literal["png", "jpg", "webp", "tiff"]
SPELLED: dict[str, Format] = {"jpeg": "jpg", "tif": "tiff"}  # other names of these
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
EXIF_START = b"Exif\0\0"
BAND = 1 << 22  # pixels that are converted at a time
LUMA = (0.299, 0.587, 0.114)  # BT.601 in full range, as in Pillow's convert("L")
INVISIBLE = 1 / 510  # half a level of alpha
FRAME = re.compile(r"([0-9]{4,})\.(?:png|jpg|webp|tiff)")  # names of frames


class Extras(NamedTuple):
    """The content of a file besides pixels.

    icc: Colour profile.
    exif: In the form that Pillow's ``encode`` takes.
    cicp: Code points of colours that no profile can express.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    cicp: bytes | None = None


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
    """Raise if outputs cannot be in a folder, before any work. Arguments as of ``why_no_folder``.

    Raises:
        ValueError: If it is not a folder, or not writable.
    """
    problem = why_no_folder(folder, to_write)
    if problem:
        raise ValueError(f"writer.folder is {str(folder)!r}, and {problem}; set another one")


def why_no_folder(folder: Path, to_write: bool) -> str:
    """Return the problem of an existing or future folder; empty without any.

    Args:
        folder: It, or a part of its path, may be missing.
        to_write: Whether something will be written there.
    """
    existing = folder
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return f"{existing} is no folder"
    if to_write and not os.access(existing, os.W_OK | os.X_OK):
        return f"nothing can be written in {existing}: it is read-only, or another user's"
    return ""


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
        ValueError: If its encoder fails.
    """
    channels = pixels.shape[2]
    deep = pixels.dtype == np.uint16
    if deep and channels == 2:
        pixels = pixels[..., [0, 0, 0, 1]]  # Pillow cannot read 16-bit grey with alpha
    icc = extras.icc
    if deep and format == "png":
        return with_chunks(png_of_16_bits(cast(Any, pixels)), *_chunks(extras))
    if deep:
        return _tiff_with_exif(_tiff_16(pixels, icc), extras.exif)
    options = dict(OPTIONS[format])
    if format in ("jpg", "webp"):
        options["quality"] = quality
    if icc:
        options["icc_profile"] = icc
    if extras.exif and format != "tiff":
        options["exif"] = extras.exif
    try:
        data = saved(pixels[..., 0] if channels == 1 else pixels, **options)
    except OSError as error:  # Pillow's class for encoder errors; no disk is involved
        raise ValueError(f"the encoder of {format} failed: {error}") from error
    if format == "png":
        return with_chunks(data, *_chunks(Extras(cicp=extras.cicp)))
    return _tiff_with_exif(data, extras.exif)


def fitted_extras(extras: Extras, pixels: Pixels, format: Format) -> tuple[Extras, list[str]]:
    """Return the extras that a file can hold, fitted to its pixels, and names of the others."""
    channels = pixels.shape[2]
    lost = []
    icc, exif, cicp = extras
    if icc:
        # WebP has no grey, and 16-bit grey with alpha is written as colour.
        grey = channels < 3 and format != "webp" and not (channels == 2 and pixels.itemsize == 2)
        icc = fitted(icc, grey)
        if icc is None or len(icc) > LARGEST_PROFILE.get(format, math.inf):
            icc = None
            lost.append("colour profile")
    if exif and format == "jpg" and len(exif) > LARGEST_EXIF:
        exif = None
        lost.append("EXIF")
    if cicp and format != "png":
        lost.append("colours (cICP code points, as of HDR)")
        cicp = None
    return Extras(icc, exif, cicp), lost


def unwritable_reason(pixels: Pixels, finite: bool, format: Format) -> str:
    """Return why an image or a clip cannot be written; empty if it can.

    Args:
        pixels: (..., H, W, C).
        finite: Whether the output before rounding was finite.
        format: File format.
    """
    if not finite:
        return "the output has pixels that are not finite"
    side = max(pixels.shape[-3:-1])
    if side > LARGEST.get(format, math.inf):
        return (
            f"{side} pixels are more than the {LARGEST[format]} that a side of {format} can have: "
            "set writer.format png"
        )
    return ""


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


def _chunks(extras: Extras) -> Iterator[bytes]:
    """Yield the extras as chunks of a PNG."""
    if extras.cicp:
        yield b"cICP" + extras.cicp
    if extras.icc:
        yield profile_chunk(extras.icc)
    if extras.exif:
        yield b"eXIf" + extras.exif.removeprefix(EXIF_START)


def _tiff_16(pixels: Pixels, icc: bytes | None) -> bytes:
    import tifffile  # here, as its import is slow and few images have 16 bits

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
    entries = _entries(data, first)
    data += bytes(-len(data) % 2)
    added = tags.tobytes(len(data))[len(EXIF_START) + len(CLASSIC_TIFF) + 4 :]
    entries |= _entries(added, 0)
    data += added + bytes(-len(added) % 2)
    directory = [entries[tag] for tag in sorted(entries)]
    end = struct.pack("<H", len(directory)) + b"".join(directory) + bytes(4)
    return CLASSIC_TIFF + struct.pack("<I", len(data)) + data[8:] + end


def _entries(data: bytes, at: int) -> dict[int, bytes]:
    (count,) = struct.unpack_from("<H", data, at)
    entries = {}
    for start in range(at + 2, at + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from("<H", data, start)
        entries[tag] = data[start : start + 12]
    return entries


def image_levels(image: Tensor, meta: dict[str, Any]) -> Pixels:
    """Return the levels of an image as its input: grey or colour, 8 or 16 bit.

    Args:
        image: (3, H, W) in [0, 1].
        meta: The input's ``mode`` and ``bit_depth``.

    Returns:
        (H, W, 1 or 3) uint8 or uint16.
    """
    if meta.get("mode") in GREY:
        image = luma(image)
    return to_pixels(image, meta.get("bit_depth", 8))


def luma(image: Tensor) -> Tensor:
    """Return the luma (1, H, W) of a (3, H, W) image in [0, 1], in the same range."""
    return (image * image.new_tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)


def to_pixels(image: Tensor, bit_depth: int) -> Pixels:
    """Round an image to integer levels; this waits for the device.

    Args:
        image: (C, H, W) in [0, 1].
        bit_depth: 8 or 16.

    Returns:
        (H, W, C) uint8 or uint16.
    """
    # By bands of rows: copies of a large output in float32 would take gigabytes.
    channels, height, width = image.shape
    pixels = np.empty((height, width, channels), f"uint{bit_depth}")
    rows = max(BAND // width, 1)
    for top in range(0, height, rows):
        pixels[top : top + rows] = _levels(image[:, top : top + rows], bit_depth)
    return pixels


def _levels(image: Tensor, bit_depth: int) -> Pixels:
    levels = (image.float().clamp(0, 1) * (2**bit_depth - 1)).round().permute(1, 2, 0)
    if bit_depth == 8:
        return levels.to(torch.uint8).cpu().numpy()
    return levels.to(torch.int32).cpu().numpy().astype(np.uint16)


def fitted_pixels(pixels: Pixels, format: Format) -> Pixels:
    """Return (H, W, C) as a format can hold it: on white without alpha, rounded to 8 bits."""
    if format in OPAQUE and pixels.shape[2] in (2, 4):
        pixels = on_white(pixels[..., :-1], pixels[..., -1:])
    return eight_bits(pixels) if format in EIGHT_BIT else pixels


def mixed_with_bicubic(output: Tensor, lr: Tensor, strength: float) -> Tensor:
    """Return a share of an output, (C, H, W) or (F, C, H, W), and else the bicubic enlargement."""
    if strength == 1:
        return output
    frames = lr.to(output.device, torch.float32).view(-1, *lr.shape[-3:])
    bicubic = resize(frames, output.shape[-2:]).view(output.shape)
    return bicubic.lerp_(output.float(), strength)


def weighted_by_alpha(output: Tensor, seen: Tensor, colours: Tensor, alpha: Tensor) -> Tensor:
    """Weight the colours of an output by alpha, as they are weighted in what a viewer sees.

    Otherwise the colour of a hardly visible pixel is half of the colour between it and an opaque
    one. A method knows no alpha: what the weights change in bicubic is added to its output.

    Args:
        output: (3, H, W), made by the method.
        seen: (3, h, w), what it was made of.
        colours: (3, h, w) of the image, hidden ones included.
        alpha: (1, h, w). All are in [0, 1].
    """
    if alpha.min() == alpha.max():
        return output
    size = output.shape[-2:]
    share = resize(alpha[None], size, clamp=False)[0, 0]
    invisible = share <= INVISIBLE
    weighted = torch.empty_like(output)
    for channel, (before, colour) in enumerate(zip(seen, colours, strict=True)):
        # In place and by channels: an output of 400 megapixels has 5 GB.
        change = resize((colour * alpha)[None], size, clamp=False)[0, 0].div_(share)
        change -= resize(before[None, None], size, clamp=False)[0, 0]
        change.masked_fill_(invisible, 0)
        torch.add(output[channel], change, out=weighted[channel])
    return weighted.clamp_(0, 1)


def output_levels(output: Tensor, meta: dict[str, Any]) -> Pixels:
    """Return the levels of an image, (H, W, C), or of a clip, (F, H, W, C).

    Args:
        output: (3, H, W) or (F, 3, H, W) in [0, 1].
        meta: As for ``image_levels``.
    """
    if output.ndim == 3:
        return image_levels(output, meta)
    return cast(Pixels, np.stack([image_levels(frame, meta) for frame in output]))


def frames_of(count: int | None) -> Known:
    """Return a function that recognises names of frames of ``write_clip``.

    Args:
        count: Number of frames; None if unknown.
    """

    def is_frame(name: str) -> bool:
        match = FRAME.fullmatch(name)
        if match is None:
            return False
        return count is None or 1 <= int(match[1]) <= count

    return is_frame


@long_name_errors()
def write_clip(
    folder: Path, frames: Pixels, format: Format, quality: int, before: Callable[[], None]
) -> None:
    """Write frames to a temporary folder and move it to its place.

    Args:
        folder: The folder of the frames ``0001.png`` and so on.
        frames: (F, H, W, C) uint8 or uint16.
        format: File format of the frames.
        quality: Quality of ``jpg`` and ``webp``.
        before: Called when all frames are on the disk; it removes older ones from their place.

    Raises:
        ValueError: If an encoder fails, or the name is too long for the disk.
        OSError: If a file could not be written.
    """
    with whole_folder(folder, before, frames_of(None)) as beside:
        for number, frame in enumerate(frames, start=1):
            write_image(beside / f"{number:04}.{format}", frame, Extras(), format, quality)
