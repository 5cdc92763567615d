"""Whether a video's file ends where its container says that its last part ends.

FFmpeg takes the end of most files for the end of the video, however many bytes are missing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import BinaryIO

Read = Callable[[int, int], bytes]  # a number of bytes, from an offset

MEDIA_BOXES = (b"moov", b"moof", b"mdat")  # of ISO files; others may be a camera's own
SEGMENT, CLUSTER = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"  # of Matroska
UNKNOWN_LENGTH = 0xFFFFFFFF  # of a RIFF chunk that was written to a pipe
SYNC = b"G"  # first byte of a packet of a transport stream
PACKETS = (188, 204)  # bytes of such a packet, without the prefix of M2TS and with error correction
LONGEST_PAGE = 65_307  # bytes, of Ogg
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_HEADER = 1 << 16  # bytes that are searched for these


class TruncatedVideoError(ValueError):
    """The end of a video's file is missing."""


def check_end(file: BinaryIO, format: str) -> None:
    """Raise if the end of a video's file is missing.

    Args:
        file: The open file; its position is left alone.
        format: FFmpeg's name of the container; many state no length, and pass.

    Raises:
        TruncatedVideoError: If the file ends within a part, or with something else.
    """
    size = os.fstat(file.fileno()).st_size
    is_cut = CHECKS.get(format.partition(",")[0])
    if is_cut is not None and is_cut(lambda at, count: os.pread(file.fileno(), count, at), size):
        raise TruncatedVideoError("the file is truncated, or its end is damaged: get it again")


def _lacks_boxes(read: Read, size: int) -> bool:
    at = 0
    while at + 16 <= size:
        length, kind, longer = struct.unpack(">I4sQ", read(at, 16))
        length = longer if length == 1 else length
        if kind in MEDIA_BOXES and at + length > size:
            return True
        if length < 8:  # the last box, or bytes that another program has added
            return False
        at += length
    return False


def _lacks_chunks(read: Read, size: int) -> bool:
    at = 0
    while at + 8 <= size:
        kind, length = struct.unpack("<4sI", read(at, 8))
        if kind != b"RIFF" or length == UNKNOWN_LENGTH:
            return False
        at += 8 + length + length % 2
        if at > size + length % 2:
            return True
    return False


def _lacks_elements(read: Read, size: int) -> bool:
    # The segment and the clusters of a live recording have no length.
    at, end = 0, size
    while at < end:
        head = read(at, 12)
        identity_length = 9 - head[0].bit_length()
        if identity_length > 4 or len(head) <= identity_length:
            return True
        identity, rest = head[:identity_length], head[identity_length:]
        number_length = 9 - rest[0].bit_length()
        if number_length > 8 or len(rest) < number_length:
            return True
        marker = 1 << 7 * number_length
        length = int.from_bytes(rest[:number_length]) - marker
        content = at + identity_length + number_length
        open_ended = length == marker - 1
        after = size if open_ended else content + length
        if after > size:
            return True
        if identity == SEGMENT:
            end = after
        at = content if identity == SEGMENT or open_ended else after
    return False


def _lacks_packets(read: Read, size: int) -> bool:
    return all(read(max(size - length, 0), 1) != SYNC for length in PACKETS)


def _lacks_pages(read: Read, size: int) -> bool:
    start = max(size - LONGEST_PAGE, 0)
    tail = read(start, LONGEST_PAGE)
    at = tail.rfind(b"OggS")
    if at < 0 or at + 27 > len(tail):
        return True
    lengths = tail[at + 27 : at + 27 + tail[at + 26]]
    return at + 27 + tail[at + 26] + sum(lengths) != len(tail)


def _lacks_bytes(read: Read, size: int) -> bool:
    header = read(0, ASF_HEADER)
    at = header.find(ASF_PROPERTIES)
    if at < 0 or at + 92 > len(header):
        return False
    (stated,) = struct.unpack_from("<Q", header, at + 40)
    is_broadcast = header[at + 88] & 1
    return not is_broadcast and stated > size


CHECKS: dict[str, Callable[[Read, int], bool]] = {
    "mov": _lacks_boxes,
    "avi": _lacks_chunks,
    "matroska": _lacks_elements,
    "mpegts": _lacks_packets,
    "ogg": _lacks_pages,
    "asf": _lacks_bytes,
}
