"""Image and clip files of predict."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.ExifTags import IFD, Base
from torch import Tensor

from degradations.bicubic import resize
from files.batch import Box
from files.images.alpha import on_white
from files.images.colours import GREY, profile_for_mode
from files.images.deep import Pixels, eight_bits
from files.images.encoders import profile_chunk
from files.images.rows import is_big_tiff, write_jpeg, write_png, write_tiff
from files.owned import whole_file

Format = Literal["png", "jpg", "webp", "tiff"]
SPELLED: dict[str, Format] = {"jpeg": "jpg", "tif": "tiff"}  # other names of these
EIGHT_BIT: tuple[Format, ...] = ("jpg", "webp")  # formats that hold no 16 bits
OPAQUE: tuple[Format, ...] = ("jpg",)  # formats that hold no alpha
LARGEST: dict[Format, int] = {"jpg": 65500, "webp": 16383}  # pixels of a side; limits of encoders
LARGEST_EXIF = 65500  # bytes in a JPEG

# Bytes of a colour profile: readers of PNG ignore larger ones, and JPEG has 255 segments for it.
LARGEST_PROFILE: dict[Format, int] = {"png": 8_000_000, "jpg": 255 * 65519}
CLASSIC_TIFF = b"II*\0"  # its first bytes in little-endian files
EXIF_START = b"Exif\0\0"
BAND = 1 << 22  # pixels that are converted at a time
LUMA = (0.299, 0.587, 0.114)  # BT.601 in full range, as in Pillow's convert("L")
INVISIBLE = 1 / 510  # half a level of alpha
BY_ROWS: tuple[Format, ...] = ("png", "jpg", "tiff")  # formats that are written row by row
WHOLE = 12  # bytes of memory that another one needs for each pixel
Size = tuple[int, int]


class Extras(NamedTuple):
    """The content of a file besides pixels.

    icc: Colour profile.
    exif: In the form that Pillow's ``encode`` takes.
    cicp: Code points of colours that no profile can express.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    cicp: bytes | None = None


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


def write_image(
    path: Path,
    pixels: Pixels,
    extras: Extras,
    format: Format,
    quality: int,
    before: Callable[[], None] | None = None,
) -> list[str]:
    """Write an image to a temporary file, and move it to its place.

    Args:
        path: The file; its folder is created.
        pixels: (H, W, C) uint8 or uint16; C is 1 (grey), 2 (with alpha), 3 (RGB) or 4 (with alpha).
        extras: Other content of the file.
        format: File format. ``jpg`` has no alpha; ``jpg`` and ``webp`` have 8 bits only.
        quality: Quality of ``jpg`` and ``webp``, 1 to 100.
        before: Called when all bytes are on the disk, before the image appears in its place.

    Returns:
        Names of the extras that the format cannot hold.

    Raises:
        OSError: If the file cannot be written, or its encoder fails.
    """
    with whole_file(path, before) as file:
        return encode(file, pixels, extras, format, quality)


def encode(
    file: BinaryIO, pixels: Pixels, extras: Extras, format: Format, quality: int
) -> list[str]:
    """Write an image into an open file, empty and readable; otherwise as ``write_image``."""
    extras, lost = _fitted_extras(extras, pixels, format)
    if format == "png":
        write_png(file, pixels, _chunks(extras))
    elif format == "tiff":
        write_tiff(file, pixels, extras.icc)
        _add_exif_to_tiff(file, extras.exif)
    elif format == "jpg":
        write_jpeg(file, pixels, quality, **_options(extras))
    else:
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        image.save(file, "WEBP", quality=quality, **_options(extras))
    return lost


def _options(extras: Extras) -> dict[str, bytes]:
    """Return the extras as Pillow's options."""
    options = {"icc_profile": extras.icc, "exif": extras.exif}
    return {name: content for name, content in options.items() if content}


def _fitted_extras(extras: Extras, pixels: Pixels, format: Format) -> tuple[Extras, list[str]]:
    """Return the extras that a file can hold, fitted to its pixels, and names of the others."""
    lost = []
    icc, exif, cicp = extras
    if icc:
        icc = profile_for_mode(icc, pixels.shape[2] < 3 and format != "webp")  # WebP has no grey
        if icc is None or len(icc) > LARGEST_PROFILE.get(format, math.inf):
            icc = None
            lost.append("colour profile")
    if exif:
        too_long = format == "jpg" and len(exif) > LARGEST_EXIF
        if too_long or (format == "tiff" and is_big_tiff(pixels)):
            exif = None
            lost.append("EXIF")
    if cicp and format != "png":
        lost.append("colours (cICP code points, as of HDR)")
        cicp = None
    return Extras(icc, exif, cicp), lost


def unwritable_reason(size: Size, format: Format) -> str:
    """Return why no image of (H, W) can be written in a format; empty if one can."""
    side = max(size)
    if side > LARGEST.get(format, math.inf):
        return (
            f"{side} pixels are more than the {LARGEST[format]} that a side of {format} can have: "
            "set writer.format png"
        )
    return ""


def fitted_exif(exif: bytes, size: tuple[int, int], place: bool) -> bytes | None:
    """Return EXIF with the size of the enlarged image in it.

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


def _add_exif_to_tiff(file: BinaryIO, exif: bytes | None) -> None:
    """Add the tags of EXIF to the directory of a classic TIFF.

    tifffile writes no directories in directories. They and a new first directory are appended.
    """
    if exif is None:
        return
    file.seek(4)
    (first,) = struct.unpack("<I", file.read(4))
    file.seek(first)
    (count,) = struct.unpack("<H", file.read(2))
    entries = _entries(file.read(12 * count))
    end = file.seek(0, os.SEEK_END)
    end += file.write(bytes(-end % 2))
    tags = Image.Exif()
    tags.load(exif)
    tags.endian = "<"
    added = tags.tobytes(end)[len(EXIF_START) + len(CLASSIC_TIFF) + 4 :]
    (count,) = struct.unpack_from("<H", added)
    entries |= _entries(added[2 : 2 + 12 * count])
    file.write(added + bytes(-len(added) % 2))
    directory = [entries[tag] for tag in sorted(entries)]
    place = file.tell()
    file.write(struct.pack("<H", len(directory)) + b"".join(directory) + bytes(4))
    file.seek(4)
    file.write(struct.pack("<I", place))


def _entries(data: bytes) -> dict[int, bytes]:
    """Return the entries of a TIFF's directory, 12 bytes each, by their tags."""
    entries = {}
    for start in range(0, len(data), 12):
        (tag,) = struct.unpack_from("<H", data, start)
        entries[tag] = data[start : start + 12]
    return entries


def image_levels(image: Tensor, meta: Mapping[str, Any]) -> Pixels:
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
        pixels[top : top + rows] = _band_to_pixels(image[:, top : top + rows], bit_depth)
    return pixels


def _band_to_pixels(image: Tensor, bit_depth: int) -> Pixels:
    """Return ``to_pixels`` of a few rows of an image, all at once."""
    levels = (image.float().clamp(0, 1) * (2**bit_depth - 1)).round().permute(1, 2, 0)
    if bit_depth == 8:
        return levels.to(torch.uint8).cpu().numpy()
    return levels.to(torch.int32).cpu().numpy().astype(np.uint16)


def fitted_pixels(pixels: Pixels, format: Format) -> Pixels:
    """Return (H, W, C) as a format can hold it: on white without alpha, rounded to 8 bits."""
    if format in OPAQUE and pixels.shape[2] in (2, 4):
        pixels = on_white(pixels[..., :-1], pixels[..., -1:])
    return eight_bits(pixels) if format in EIGHT_BIT else pixels


def mixed_with_bicubic(
    output: Tensor, lr: Tensor, strength: float, boxes: Sequence[Box] | None = None
) -> Tensor:
    """Return a mixture of an output, (C, H, W) or (F, C, H, W), and the bicubic enlargement.

    Args:
        output: Made by the method.
        lr: What it was made of, or the part on which this part of it depends.
        strength: Share of the output, from 0 to 1.
        boxes: As of ``resize``, if it is a part.
    """
    if strength == 1:
        return output
    frames = lr.to(output.device, torch.float32).view(-1, *lr.shape[-3:])
    bicubic = resize(frames, output.shape[-2:], boxes=boxes).view(output.shape)
    return bicubic.lerp_(output.float(), strength)


def weighted_by_alpha(
    output: Tensor,
    seen: Tensor,
    colours: Tensor,
    alpha: Tensor,
    boxes: Sequence[Box] | None = None,
) -> Tensor:
    """Weight the colours of an output by alpha, as they are weighted in what a viewer sees.

    Otherwise the colour of a hardly visible pixel is half of the colour between it and an opaque
    one. A method knows no alpha: what the weights change in bicubic is added to its output.

    Args:
        output: (3, H, W), made by the method.
        seen: (3, h, w), what it was made of.
        colours: (3, h, w) of the image, hidden ones included.
        alpha: (1, h, w), not the same everywhere. All are in [0, 1].
        boxes: As of ``resize``, if the images are parts.
    """
    size = output.shape[-2:]
    share = resize(alpha[None], size, False, boxes)[0, 0]
    invisible = share <= INVISIBLE
    weighted = torch.empty_like(output)
    for channel, (before, colour) in enumerate(zip(seen, colours, strict=True)):
        # In place and by channels: an output of 400 megapixels has 5 GB.
        change = resize((colour * alpha)[None], size, False, boxes)[0, 0].div_(share)
        change -= resize(before[None, None], size, False, boxes)[0, 0]
        change.masked_fill_(invisible, 0)
        torch.add(output[channel], change, out=weighted[channel])
    return weighted.clamp_(0, 1)
