"""Small image files for the tests of this folder."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def pixels(size: tuple[int, int] = (8, 6), seed: int = 0) -> np.ndarray:
    """Return random (H, W, 3) uint8 of a (W, H) size."""
    width, height = size
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, size: tuple[int, int] = (8, 6), seed: int = 0) -> Path:
    """Write a random image of a (W, H) size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(size, seed)).save(path)
    return path


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """Return an image as a file of Pillow's format."""
    buffer = io.BytesIO()
    whole = image if isinstance(image, Image.Image) else Image.fromarray(image)
    whole.save(buffer, kind, **options)
    return buffer.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> Path:
    """Write a tar of members by name."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
