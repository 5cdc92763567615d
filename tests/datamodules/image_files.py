"""Small image files for the tests of this folder."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.shards.index import build_index, save_index

# Left, top, and steps across and down of the passes of an interlaced PNG.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
ADAM7 = (*PASSES, (0, 1, 1, 2))


def pixels(size: tuple[int, int] = (8, 6), seed: int = 0) -> np.ndarray:
    """Return random (H, W, 3) uint8 of a (W, H) size."""
    width, height = size
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save_pixels(path: Path, pixels: np.ndarray) -> Path:
    """Write (H, W, 3) uint8 as an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def save(path: Path, size: tuple[int, int] = (8, 6), seed: int = 0) -> Path:
    """Write a random image of a (W, H) size."""
    return save_pixels(path, pixels(size, seed))


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """Return an image as a file of Pillow's format."""
    buffer = io.BytesIO()
    whole = image if isinstance(image, Image.Image) else Image.fromarray(image)
    whole.save(buffer, kind, **options)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    """Return an array as a file of NumPy's format."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> Path:
    """Write a tar of members by name."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def _packed(samples: np.ndarray, depth: int) -> bytes:
    rows = []
    for row in samples.reshape(len(samples), -1):
        bits = row[:, None] >> np.arange(depth)[::-1] & 1
        rows.append(b"\0" + np.packbits(bits.astype(np.uint8)).tobytes())
    return b"".join(rows)


def png(
    samples: np.ndarray, depth: int, colours: int, *chunks: bytes, interlaced: bool = False
) -> bytes:
    """Return a PNG of (H, W, C) samples of some bits and a colour type, with further chunks."""
    parts = [samples]
    if interlaced:
        parts = [samples[top::down, left::across] for left, top, across, down in ADAM7]
    pixels = b"".join(_packed(part, depth) for part in parts)
    sides = samples.shape[1::-1]
    head = struct.pack(">IIBBBBB", *sides, depth, colours, 0, 0, interlaced)
    chunks = (chunk(b"IHDR", head), *chunks, chunk(b"IDAT", zlib.compress(pixels)))
    return b"".join([b"\x89PNG\r\n\x1a\n", *chunks, chunk(b"IEND", b"")])


def image_bytes(seed: int, size: tuple[int, int] = (8, 6), kind: str = "PNG") -> bytes:
    """Return a random image as a file."""
    return encoded(pixels(size, seed), kind)


def indexed(path: Path) -> Path:
    """Write the index of a tar beside it, as the packer does."""
    save_index(build_index(path, examine=True), Path(f"{path}.idx.json"))
    return path
