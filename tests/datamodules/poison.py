"""A folder of images that keep a decoder busy, or would fill the memory."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from tests.datamodules.image_files import save

REASONS = {
    "device": "not a file",
    "header": "too large",
    "pipe": "not a file",
    "slow": "too slow",
    "truncated": "truncated",
}


def poisoned(folder: Path) -> Path:
    """Write images 0 to 5, and one of each of ``REASONS``."""
    for number in range(6):
        save(folder / f"{number}.png", (40, 30), seed=number)
    whole = (folder / "0.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[:600])
    claims = bytearray(whole)
    claims[16:24] = struct.pack(">II", 60_000, 60_000)  # 10 GB of RGB
    claims[29:33] = struct.pack(">I", zlib.crc32(claims[12:29]))
    (folder / "header.png").write_bytes(claims)
    (folder / "slow.jpg").write_bytes(slow_jpeg(13_000))
    (folder / "device.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    return folder


def slow_jpeg(side: int) -> bytes:
    """Return a valid grey JPEG with 882 scans, each over every block.

    Each scan holds one bit of one of the 63 frequencies, and says that no block has it. A core
    decodes about 6 megapixels a second.

    Args:
        side: In pixels; 13,000 are half a megabyte.
    """
    blocks = (-(-side // 8)) ** 2
    run = ("0" + "1" * 14) * -(-blocks // 32767)  # the code, and the rest of the run's length
    run += "1" * (-len(run) % 8)
    ends = int(run, 2).to_bytes(len(run) // 8, "big").replace(b"\xff", b"\xff\0")
    scans = [_scan(0, 0, 0, bytes(-(-blocks // 8)))]
    for low in range(13, -1, -1):
        above = 0 if low == 13 else low + 1
        scans += [_scan(frequency, above, low, ends) for frequency in range(1, 64)]
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xDB, bytes([0, *[1] * 64])),
            _segment(0xC2, struct.pack(">BHH4B", 8, side, side, 1, 1, 0x11, 0)),
            *(_segment(0xC4, bytes([kind, 1, *[0] * 15, code])) for kind, code in _CODES),
            *scans,
            b"\xff\xd9",
        )
    )


_CODES = ((0, 0), (0x10, 0xE0))  # no difference of a mean; a run of blocks that end


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _scan(frequency: int, above: int, low: int, data: bytes) -> bytes:
    about = bytes([1, 1, 0, frequency, frequency, above << 4 | low])
    return _segment(0xDA, about) + data
