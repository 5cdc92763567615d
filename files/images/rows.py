"""Write PNG, TIFF and JPEG row by row, with only some rows in memory."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from files.images import jpeg
from files.images.arrays import give_back
from files.images.deep import Pixels
from files.images.encoders import encoded_by_pillow
from files.images.png import SIGNATURE, chunk_of

ROWS = 64  # in a band: eight rows of JPEG blocks, after which the restart markers repeat
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by channels
SUB = 1  # PNG's filter that subtracts the pixel on the left
LAST_MARK = b"\xff\xd7"  # of the eight that follow rows of a JPEG's blocks in turns
LARGEST_TIFF = (1 << 32) - (1 << 25)  # bytes of pixels, with room for a directory


def _bands(pixels: Pixels) -> Iterator[Pixels]:
    """Yield ``ROWS`` rows of an image at a time; the last band has the rest."""
    for top in range(0, len(pixels), ROWS):
        yield pixels[top : top + ROWS]
        give_back(pixels)


# -------------------------------------------------------------------------------------------- PNG


def write_png(file: BinaryIO, pixels: Pixels, chunks: Iterable[bytes]) -> None:
    """Write a PNG.

    Args:
        file: The open file.
        pixels: (H, W, C) uint8 or uint16: grey, grey with alpha, RGB, or RGB with alpha.
        chunks: Name and content of further chunks.
    """
    height, width, channels = pixels.shape
    header = (width, height, 8 * pixels.itemsize, COLOUR_TYPES[channels], 0, 0, 0)
    file.write(SIGNATURE)
    file.write(chunk_of(b"IHDR" + struct.pack(">IIBBBBB", *header)))
    for chunk in chunks:
        file.write(chunk_of(chunk))
    packer = _packer(pixels)
    above = pixels[:0]
    for band in _bands(pixels):
        filtered = _png_filtered_rows(band, above) if band.itemsize == 1 else _filtered_16(band)
        file.write(chunk_of(b"IDAT" + packer.compress(filtered)))
        above = band[-1:]
    file.write(chunk_of(b"IDAT" + packer.flush()))
    file.write(chunk_of(b"IEND"))


def _packer(pixels: Pixels) -> Any:
    if pixels.itemsize == 1:  # level 6 takes twice as long, for files 1 % smaller
        return zlib.compressobj(3, memLevel=9, strategy=zlib.Z_FILTERED)
    return zlib.compressobj(zlib.Z_BEST_SPEED, strategy=zlib.Z_RLE)  # as OpenCV


def _png_filtered_rows(band: Pixels, above: Pixels) -> bytes:
    """Let Pillow's PNG encoder write at level 0, and inflate: what remains are filtered rows."""
    rows = np.concatenate([above, band])
    image = Image.fromarray(rows[..., 0] if rows.shape[2] == 1 else rows)
    filtered = zlib.decompress(image.tobytes("zip", image.mode, False, 0, -1, b""))
    bytes_of_row = len(filtered) // len(rows)
    return filtered[bytes_of_row * len(above) :]


def _filtered_16(band: Pixels) -> bytes:
    rows, width, channels = band.shape
    step = 2 * channels  # bytes of a pixel
    data = np.ascontiguousarray(band, ">u2").view(np.uint8).reshape(rows, step * width)
    filtered = np.empty((rows, 1 + step * width), np.uint8)
    filtered[:, 0] = SUB
    filtered[:, 1 : 1 + step] = data[:, :step]
    np.subtract(data[:, step:], data[:, :-step], out=filtered[:, 1 + step :])
    return filtered.tobytes()


# ------------------------------------------------------------------------------------------- JPEG


def write_jpeg(file: BinaryIO, pixels: Pixels, quality: int, **extras: Any) -> None:
    """Write a JPEG: each band is one of Pillow's, whose rows of blocks end in restart markers.

    Without its header it continues the band before.

    Args:
        file: The open file.
        pixels: (H, W, C) uint8, grey or RGB.
        quality: 1 to 100; colours are at full resolution.
        extras: Pillow's options about other content than pixels.
    """
    options = {"quality": quality, "subsampling": 0, "restart_marker_rows": 1}
    for number, band in enumerate(_bands(pixels)):
        rows = band[..., 0] if band.shape[2] == 1 else band
        if number:
            data = encoded_by_pillow(rows, "JPEG", **options)
            file.write(LAST_MARK + data[_scan_of(data) : -len(jpeg.END)])
            continue
        data = encoded_by_pillow(rows, "JPEG", **options, **extras)
        header = jpeg.read_header(data)
        assert header is not None
        height_at = header.frame + 5
        height = struct.pack(">H", len(pixels))
        file.write(data[:height_at] + height + data[height_at + 2 : -len(jpeg.END)])
    file.write(jpeg.END)


def _scan_of(data: bytes) -> int:
    """Return where the coded pixels of a JPEG of one scan begin."""
    marker = data.rindex(jpeg.SCAN)  # no such bytes come after it
    return marker + 2 + int.from_bytes(data[marker + 2 : marker + 4])


# ------------------------------------------------------------------------------------------- TIFF


def write_tiff(file: BinaryIO, pixels: Pixels, icc: bytes | None) -> None:
    """Write a TIFF; a BigTIFF from 4 GB of pixels on.

    Args:
        file: The open file.
        pixels: As for ``write_png``.
        icc: Colour profile.
    """
    import tifffile  # here, as its import is slow

    channels = pixels.shape[2]
    tifffile.imwrite(
        file,
        (zlib.compress(band.tobytes()) for band in _bands(pixels)),
        bigtiff=is_big_tiff(pixels),
        shape=pixels.shape if channels > 1 else pixels.shape[:2],
        dtype=pixels.dtype,
        rowsperstrip=ROWS,
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig=None if channels == 1 else "contig",
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        iccprofile=icc,
        metadata=None,
        software=False,
    )


def is_big_tiff(pixels: Pixels) -> bool:
    """Return whether an image is too large for a classic TIFF."""
    return pixels.nbytes > LARGEST_TIFF
