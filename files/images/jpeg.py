"""JPEG at the level of its markers: the header, and strict decoding.

libjpeg, on which every decoder here is built, only warns if data end too early or are invalid, and
paints the rest grey. Pillow drops its warnings; simplejpeg can raise them at no cost. Some are
harmless (bytes between the segments of a header, zeros before the end): those bytes are removed,
and the file is read again, as strictly.
"""

from __future__ import annotations

import logging
import re
import struct
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from files.images.faults import Truncated

log = logging.getLogger(__name__)
Bytes = bytes | bytearray | memoryview
START, END = b"\xff\xd8", b"\xff\xd9"
FRAME_HEADERS = frozenset(range(0xFFC0, 0xFFD0)) - {0xFFC4, 0xFFC8, 0xFFCC}
SCAN_HEADER, EXIF, PROFILE = 0xFFDA, 0xFFE1, 0xFFE2
BASELINE, PROGRESSIVE = 0xFFC0, 0xFFC2
FRAME_BYTES = 10  # that are read of a frame header; no segment is followed by fewer
SCAN = b"\xff\xda"
WITHOUT_LENGTH = frozenset(range(0xFFD0, 0xFFDA))

# libjpeg's warnings about invalid data, after which it continues.
DAMAGE = re.compile(
    r"[Pp]remature end|bad (Huffman|arithmetic) code|instead of RST|extraneous bytes|progression"
)
_segment = struct.Struct(">HH").unpack_from
_frame = struct.Struct(">BHHB").unpack_from


class Header(NamedTuple):
    """The header of a JPEG.

    Attributes:
        height: In pixels, as stored.
        width: In pixels, as stored.
        components: 1 for grey, 3 for colour, 4 for CMYK.
        precision: Bits per sample.
        frame: Offset of the frame header's marker.
        process: That marker, 0xFFC0 for baseline.
        tagged: Whether segments may hold EXIF, XMP, a colour profile or further images.
    """

    height: int
    width: int
    components: int
    precision: int
    frame: int
    process: int
    tagged: bool


def read_header(data: Bytes) -> Header | None:
    """Parse the segments before the first scan.

    Args:
        data: The file, or at least its header.

    Returns:
        None if this is not a JPEG, its header does not end within ``data``, or has an unusual
        layout, which a more tolerant reader must handle.
    """
    if data[:2] != START:
        return None
    frame = process = precision = height = width = components = marker = 0
    tagged = False
    position = len(START)
    while marker != SCAN_HEADER:
        if position + FRAME_BYTES > len(data):
            return None
        marker, length = _segment(data, position)
        if marker in FRAME_HEADERS:
            frame, process = position, marker
            precision, height, width, components = _frame(data, position + 4)
        elif marker in (EXIF, PROFILE):
            tagged = True
        elif marker < 0xFFC0 or marker in WITHOUT_LENGTH:
            return None
        position += 2 + length
    if not height or not width or position > len(data):  # the height may be after the pixels
        return None
    return Header(height, width, components, precision, frame, process, tagged)


def plain_header(data: Bytes, most: float) -> Header | None:
    """Return the header of a JPEG of 8-bit colours without metadata; None for other files.

    Args:
        data: The whole file.
        most: Number of pixels above which None is returned.
    """
    header = read_header(data)
    if header is None or header.tagged or header.components != 3 or header.precision != 8:
        return None
    return header if header.height * header.width <= most else None


def read_strictly(data: Bytes, colors: str = "rgb") -> NDArray[np.uint8] | None:
    """Decode an 8-bit JPEG, or raise if any pixel may be wrong.

    Args:
        data: The whole file.
        colors: ``rgb``, or ``cmyk`` for a file of four components.

    Returns:
        (H, W, 3 or 4) in [0, 255]; None if simplejpeg does not read such files.

    Raises:
        Truncated: If a progressive one lacks its last scans.
        ValueError: If the file is truncated or damaged.
    """
    try:
        pixels = simplejpeg.decode_jpeg(data, colors)
    except ValueError as error:
        if not DAMAGE.search(str(error)):
            log.debug("not read by simplejpeg: %s", error)
            return None
        repaired = without_stray_bytes(bytes(data))
        if repaired == data:
            raise
        pixels = simplejpeg.decode_jpeg(repaired, colors)
    header = read_header(data)
    if header is not None and header.process == PROGRESSIVE:
        check_scans(data, header)
    return pixels


def check_scans(data: Bytes, header: Header) -> None:
    """Raise if scans of a progressive JPEG are missing at its end; libjpeg does not notice.

    A scan gives some bits of some coefficients, and states how many bits are still to come.

    Args:
        data: A progressive JPEG that libjpeg reads; other images may follow it.
        header: Its header.

    Raises:
        Truncated: If bits of a coefficient did not come.
    """
    image = bytes(data[header.frame :])
    image = image[: image.index(END, image.index(SCAN))]
    missing_bits = np.zeros((256, 64), np.uint8)  # by component and coefficient
    for scan in re.finditer(SCAN, image):
        count_at = scan.end() + 2
        spectrum_at = count_at + 1 + 2 * image[count_at]
        components = image[count_at + 1 : spectrum_at : 2]
        first, last, bits = image[spectrum_at : spectrum_at + 3]
        missing_bits[list(components), first : last + 1] = bits & 15
    if missing_bits.any():
        raise Truncated("the last scans of a progressive JPEG are missing")


def read_rows(data: bytes, bottom: int, most: float) -> NDArray[np.uint8] | None:
    """Decode the upper rows of a plain JPEG, no further than a crop needs.

    A smaller height is written into the header. libjpeg then warns of the remaining bytes, which
    hides its other warnings: use this only for files that are known to be intact.

    Args:
        data: The whole file, whose checksum was compared.
        bottom: Number of rows needed.
        most: Number of pixels of the whole image above which None is returned.

    Returns:
        (at least `bottom`, W, 3) in [0, 255]; None for other kinds of files.
    """
    header = plain_header(data, most)
    if header is None or header.process != BASELINE:
        return None
    rows = -(-(bottom + 2) // 16) * 16  # 2 more: chroma is interpolated
    if rows >= header.height:
        return None
    part = bytearray(data)
    part[header.frame + 5 : header.frame + 7] = rows.to_bytes(2, "big")
    return simplejpeg.decode_jpeg(part, strict=False)


def without_stray_bytes(data: bytes) -> bytes:
    """Return a JPEG without the stray bytes of cameras and editors, which change no pixel.

    These are bytes between the segments of the header, and zeros before the end of the image.

    Args:
        data: The whole file.

    Returns:
        The file without them; ``data`` itself if its structure cannot be followed.
    """
    segments = [START]
    position = 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 4 > len(data):
            return data
        marker, length = _segment(data, position)
        if marker < 0xFFC0 or marker == 0xFFFF:
            position += 1
            continue
        if marker == SCAN_HEADER:
            break
        if marker in WITHOUT_LENGTH:
            return data
        segments.append(data[position : position + 2 + length])
        position += 2 + length
    end = data.rfind(END)
    if end < position:
        return data
    pixels = data[position:end].rstrip(b"\0")
    stuffed = b"\0" if pixels.endswith(b"\xff") else b""  # a coded 255 is followed by a zero
    return b"".join([*segments, pixels, stuffed, END])
