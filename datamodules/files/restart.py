"""Crops of a JPEG without decoding the rest of it.

A JPEG may have a restart marker after every few blocks (MCUs: 16x16 pixels with the usual halved
chroma). A segment between two markers can be decoded by itself. So a crop is the header with
another size, the segments around the crop with renumbered markers, and the end marker: a small JPEG
for any decoder. The time depends on the crop's size, not on the image's.

Segments must not straddle the rows of blocks. So their length is the divisor of a row's number of
blocks that is nearest to the wanted length: 1 if the number is prime, which costs up to 17 % more
bytes, or a whole short row. The file stays an ordinary JPEG of the image's own size. Padding the
image to whole segments would give every width short segments, but all other readers would show the
padding.

The starts of the segments are found once, when a shard is written, and stored beside the image.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from datamodules.clock import DECODING
from datamodules.files import jpeg
from datamodules.files.decode import UnreadableImage, decode

# Chroma pixels are interpolated from their neighbours: two neighbours of a crop contribute, and
# libjpeg treats rows of four pixels or fewer differently.
MARGIN, NARROW = 2, 8
BASELINE = 0xFFC0  # the process with one scan and Huffman coding


class Box(NamedTuple):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int


class _Grid(NamedTuple):
    """The segments of a JPEG."""

    unit: tuple[int, int]  # (H, W) of a block (MCU) in pixels
    rows: int  # of blocks
    columns: int  # of blocks
    across: int  # segments in a row


def encode_jpeg(rgb: NDArray[np.uint8], quality: int, blocks: int = 8) -> bytes:
    """Encode an image with restart markers and halved chroma.

    Args:
        rgb: (H, W, 3) in [0, 255].
        quality: 1 to 100.
        blocks: Wanted number of blocks (MCUs) per segment; the nearest possible number is used.
            Fewer blocks make faster crops and larger files.

    """
    import cv2  # here, as its import is slow; Pillow's encoder fails on some large noise images

    interval = _segment_blocks(-(-rgb.shape[1] // 16), blocks)
    options = {
        cv2.IMWRITE_JPEG_QUALITY: quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        cv2.IMWRITE_JPEG_RST_INTERVAL: interval,
        cv2.IMWRITE_JPEG_OPTIMIZE: 1,
    }
    _, data = cv2.imencode(".jpg", rgb[..., ::-1], [n for pair in options.items() for n in pair])
    return data.tobytes()


def _segment_blocks(columns: int, wanted: int) -> int:
    """Return the divisor of a row's blocks that is nearest to the wanted number, by ratio.

    It is at most four times that number: else crops would be no faster than the whole image.
    """
    fit = [count for count in range(1, min(columns, 4 * wanted) + 1) if columns % count == 0]
    return min(fit, key=lambda count: abs(math.log(count / wanted)))


def restart_offsets(data: bytes) -> NDArray[np.uint32]:
    """Return the offsets of a JPEG's segments, for ``decode_crop``.

    Args:
        data: The result of ``encode_jpeg``.

    Returns:
        (2 + segments,) offsets of the frame header's marker, of the first coded byte, and of the
        marker after each segment, row by row.

    Raises:
        ValueError: If the file has no such markers.
    """
    header = jpeg.read_header(data)
    if header is None or not _is_fit(header):
        raise ValueError("the JPEG has no restart markers by which its crops can be decoded")
    grid = _grid(data, header)
    coded = np.frombuffer(data, np.uint8, offset=header.scan)
    second = coded[1:]
    # In coded data, 255 is followed by 0 (it is data) or by another 255 (padding).
    markers = np.flatnonzero((coded[:-1] == 255) & (second != 0) & (second != 255))
    count = grid.rows * grid.across
    if len(markers) < count or (second[markers[:count]] != _marker_codes(count)).any():
        raise ValueError(f"the restart markers of the JPEG's {count} segments are not in order")
    ends = markers[:count] + header.scan
    return np.concatenate([[header.frame, header.scan], ends]).astype(np.uint32)


def _is_fit(header: jpeg.Header) -> bool:
    """Return whether a header is one of our JPEGs with restart markers."""
    return header.process == BASELINE and header.components == 3 and header.interval > 0


def _grid(data: jpeg.Bytes, header: jpeg.Header) -> _Grid:
    factors = data[header.frame + 11 : header.frame + 10 + 3 * header.components : 3]
    # A single component has its own blocks, whatever its factor.
    across = max((factor >> 4 for factor in factors), default=1) if len(factors) > 1 else 1
    down = max((factor & 15 for factor in factors), default=1) if len(factors) > 1 else 1
    unit = 8 * max(down, 1), 8 * max(across, 1)
    rows, columns = -(-header.height // unit[0]), -(-header.width // unit[1])
    return _Grid(unit, rows, columns, columns // (header.interval or columns))


def _marker_codes(count: int) -> NDArray[np.uint8]:
    """Return the second bytes of the markers after the segments: RST0 to RST7 in turn, then EOI."""
    codes = (0xD0 | np.arange(count) & 7).astype(np.uint8)
    codes[-1:] = jpeg.END[1]
    return codes


@DECODING
def decode_crop(
    data: jpeg.Bytes,
    offsets: NDArray[np.uint32],
    box: Box,
    name: str = "the JPEG",
) -> NDArray[np.uint8] | None:
    """Decode a rectangle of a JPEG, bit-equal to that part of ``decode``.

    Args:
        data: The whole file.
        offsets: Result of ``restart_offsets``.
        box: The rectangle.
        name: The file's name in error messages.

    Returns:
        (height, width, 3) in [0, 255], read-only; it may be a view of a larger array. None for a
        file with EXIF or a profile, whose pixels may need to be turned or converted.

    Raises:
        UnreadableImage: If the crop's part of the file is damaged, or the offsets belong to another
            file.
        ValueError: If the crop is not inside the image.
    """
    header = jpeg.read_header(data)
    if header is not None and header.tagged:
        return None
    if header is None or not _is_fit(header):
        raise UnreadableImage(f"{name}: its header is damaged, or no longer has restart markers")
    bottom, right = box.top + box.height, box.left + box.width
    if min(box.top, box.left) < 0 or bottom > header.height or right > header.width:
        raise ValueError(f"{name}: {box} is not inside {header.height} rows of {header.width}")
    part, region = _part(data, header, offsets, box, name)
    rgb = cast("NDArray[np.uint8]", decode(part, name).rgb)
    top, left = box.top - region.top, box.left - region.left
    return rgb[top : top + box.height, left : left + box.width]


def _part(
    data: jpeg.Bytes, header: jpeg.Header, offsets: NDArray[np.uint32], box: Box, name: str
) -> tuple[bytearray, Box]:
    """Return the small JPEG around a box of the stored pixels, and the box that it shows."""
    grid = _grid(data, header)
    region, rows, columns = _region(header, grid, box)
    file = np.frombuffer(data, np.uint8)
    count = grid.rows * grid.across
    if len(offsets) != 2 + count or tuple(offsets[:2].tolist()) != (header.frame, header.scan):
        raise UnreadableImage(f"{name}: its restart offsets belong to another file")
    # By row of blocks: the marker before its segments, and the marker after each segment.
    firsts = np.arange(rows.start, rows.stop) * grid.across + columns.start
    markers = firsts[:, None] + np.arange(-1, len(columns))
    places = offsets[2 + markers].astype(np.int64)
    expected = 0xD0 | markers & 7
    if markers[-1, -1] == count - 1:
        expected[-1, -1] = jpeg.END[1]
    if not firsts[0]:  # no marker precedes the file's first segment
        places[0, 0], expected[0, 0] = 0, jpeg.START[1]
    if places.max() + 2 > len(data):
        raise UnreadableImage(f"{name}: it ends before its restart offsets do", "truncated")
    found = file[places] == 255
    found &= file[places + 1] == expected
    if not found.all() or (np.diff(places.ravel()) < 0).any():
        raise UnreadableImage(f"{name}: its restart markers are not where its offsets say")
    # A row's segments are contiguous, so they are copied at once, with the marker after each.
    starts, stops = places[:, 0] + 2, places[:, -1] + 2
    starts[0] = starts[0] if firsts[0] else header.scan
    head = _head(data, header, (region.height, region.width))
    pairs = zip(starts.tolist(), stops.tolist(), strict=True)
    part = bytearray().join([head, *[data[start:stop] for start, stop in pairs]])
    lengths = stops - starts
    moved = len(head) + np.cumsum(lengths) - stops  # by how much, row by row
    copied = (places[:, 1:] + 1 + moved[:, None]).ravel()
    np.frombuffer(part, np.uint8)[copied] = _marker_codes(copied.size)
    return part, region


def _region(header: jpeg.Header, grid: _Grid, box: Box) -> tuple[Box, range, range]:
    """Return the segments around a box with margin: their pixels, rows of blocks, and columns."""
    high, wide = grid.unit[0], grid.unit[1] * grid.columns // grid.across
    rows = range(
        max(box.top - MARGIN, 0) // high,
        min(-(-(box.top + box.height + MARGIN) // high), grid.rows),
    )
    stop = min(-(-(box.left + box.width + MARGIN) // wide), grid.across)
    right = min(stop * wide, header.width)
    columns = range(max(min(box.left - MARGIN, right - NARROW), 0) // wide, stop)
    top, left = rows.start * high, columns.start * wide
    return Box(top, left, min(rows.stop * high, header.height) - top, right - left), rows, columns


def _head(data: jpeg.Bytes, header: jpeg.Header, size: tuple[int, int]) -> bytearray:
    """Return all bytes before the pixels, for an image of another size (H, W)."""
    head = bytearray(data[: header.scan])
    head[header.frame + 5 : header.frame + 9] = struct.pack(">HH", *size)
    return head
