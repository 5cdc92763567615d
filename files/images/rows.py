"""Write PNG, TIFF and JPEG row by row, with only some rows in memory.

Each function takes an open file, (H, W) and bands of ``ROWS`` rows, (rows, W, C).
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from files.images import jpeg
from files.images.deep import Pixels
from files.images.encoders import saved
from files.images.png import SIGNATURE, chunk_of, chunks_of

ROWS = 64  # in a band: eight rows of JPEG blocks, after which the restart markers repeat
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by channels
SUB = 1  # PNG's filter that subtracts the pixel on the left
LAST_MARK = b"\xff\xd7"  # of the eight that follow rows of a JPEG's blocks in turns
LARGEST_TIFF = (1 << 32) - (1 << 25)  # bytes of pixels, with room for a directory
Size = tuple[int, int]


def bands_of(strips: Iterable[Pixels]) -> Iterator[Pixels]:
    """Yield strips of any height, (rows, W, C), as bands of ``ROWS``; the last one has the rest."""
    rest: Pixels | None = None
    for strip in strips:
        start = 0
        if rest is not None:
            start = ROWS - len(rest)
            rest = np.concatenate([rest, strip[:start]])
            if len(rest) < ROWS:
                continue
            yield rest
        stop = start + (len(strip) - start) // ROWS * ROWS
        for top in range(start, stop, ROWS):
            yield strip[top : top + ROWS]
        rest = strip[stop:].copy() if stop < len(strip) else None
    if rest is not None:
        yield rest


# -------------------------------------------------------------------------------------------- PNG


def write_png(file: BinaryIO, size: Size, bands: Iterable[Pixels], chunks: Iterable[bytes]) -> None:
    """Write a PNG of uint8 or uint16.

    Args:
        file: The file.
        size: (H, W).
        bands: Grey, grey with alpha, RGB, or RGB with alpha.
        chunks: Name and content of further chunks.
    """
    height, width = size
    packer = None
    above: Pixels | None = None
    for band in bands:
        if packer is None:
            header = (width, height, 8 * band.itemsize, COLOUR_TYPES[band.shape[2]], 0, 0, 0)
            file.write(SIGNATURE)
            file.write(chunk_of(b"IHDR" + struct.pack(">IIBBBBB", *header)))
            for chunk in chunks:
                file.write(chunk_of(chunk))
            packer = _packer(band)
        filtered = _filtered_8(band, above) if band.itemsize == 1 else _filtered_16(band)
        file.write(chunk_of(b"IDAT" + packer.compress(filtered)))
        above = band[-1:].copy()
    assert packer is not None
    file.write(chunk_of(b"IDAT" + packer.flush()))
    file.write(chunk_of(b"IEND"))


def _packer(band: Pixels) -> Any:
    if band.itemsize == 1:  # as Pillow
        return zlib.compressobj(memLevel=9, strategy=zlib.Z_FILTERED)
    return zlib.compressobj(zlib.Z_BEST_SPEED, strategy=zlib.Z_RLE)  # as OpenCV


def _filtered_8(band: Pixels, above: Pixels | None) -> bytes:
    """Return rows as Pillow filters them, by what it writes without compression."""
    rows = band if above is None else np.concatenate([above, band])
    pixels = rows[..., 0] if rows.shape[2] == 1 else rows
    png = memoryview(saved(pixels, "PNG", compress_level=0))
    parts = [png[start + 8 : end] for name, start, end in chunks_of(png) if name == b"IDAT"]
    filtered = zlib.decompress(b"".join(parts))
    bytes_of_row = len(filtered) // len(rows)
    return filtered[-bytes_of_row * len(band) :]


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


def write_jpeg(
    file: BinaryIO, size: Size, bands: Iterable[Pixels], quality: int, **extras: Any
) -> None:
    """Write a JPEG: each band is one of Pillow's, whose rows of blocks end in restart markers.

    Without its header it continues the band before.

    Args:
        file: The file.
        size: (H, W).
        bands: Grey or RGB in uint8.
        quality: 1 to 100; colours are at full resolution.
        extras: Pillow's options about other content than pixels.
    """
    options = {"quality": quality, "subsampling": 0, "restart_marker_rows": 1}
    for number, band in enumerate(bands):
        pixels = band[..., 0] if band.shape[2] == 1 else band
        if number:
            data = saved(pixels, "JPEG", **options)
            file.write(LAST_MARK + data[_scan_of(data) : -len(jpeg.END)])
            continue
        data = saved(pixels, "JPEG", **options, **extras)
        header = jpeg.read_header(data)
        assert header is not None
        height_at = header.frame + 5
        file.write(data[:height_at] + struct.pack(">H", size[0]) + data[height_at + 2 : -2])
    file.write(jpeg.END)


def _scan_of(data: bytes) -> int:
    """Return where the coded pixels of a JPEG of one scan begin."""
    marker = data.rindex(jpeg.SCAN)  # no such bytes come after it
    return marker + 2 + int.from_bytes(data[marker + 2 : marker + 4])


# ------------------------------------------------------------------------------------------- TIFF


def write_tiff(file: BinaryIO, size: Size, bands: Iterable[Pixels], icc: bytes | None) -> None:
    """Write a TIFF of uint8 or uint16; a BigTIFF from 4 GB of pixels on.

    Args:
        file: The file.
        size: (H, W).
        bands: As for ``write_png``.
        icc: Colour profile.
    """
    import tifffile  # here, as its import is slow

    bands = iter(bands)
    first = next(bands)
    channels = first.shape[2]
    tifffile.imwrite(
        file,
        (zlib.compress(band.tobytes()) for band in itertools.chain([first], bands)),
        bigtiff=is_big_tiff(size, first),
        shape=(*size, channels) if channels > 1 else size,
        dtype=first.dtype,
        rowsperstrip=ROWS,
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig=None if channels == 1 else "contig",
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        iccprofile=icc,
        metadata=None,
        software=False,
    )


def is_big_tiff(size: Size, band: Pixels) -> bool:
    """Return whether an image is too large for a classic TIFF.

    Args:
        size: (H, W).
        band: Some of its rows.
    """
    return size[0] * size[1] * band.shape[2] * band.itemsize > LARGEST_TIFF
