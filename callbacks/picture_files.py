"""Pictures for the commands of this folder: found below folders, read as a metric sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})


def find_pictures(places: Sequence[str | Path]) -> list[Path]:
    """All pictures in files and folders (and below them), each once, sorted by path.

    What is hidden below a folder is left out: it may be half of what a killed run was writing.

    Raises:
        ValueError: A place is not there, or holds no picture.
    """
    found: set[Path] = set()
    for place in map(Path, places):
        if place.is_file():
            found.add(place)
            continue
        if not place.is_dir():
            raise ValueError(f"{place} is neither a file nor a folder; give where pictures are")
        below = {
            path
            for path in place.rglob("*")
            if path.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(place).parts)
            and path.is_file()
        }
        if not below:
            raise ValueError(f"{place} holds no picture ({', '.join(sorted(SUFFIXES))})")
        found |= below
    return sorted(found)


def read_picture(path: Path) -> Tensor:
    """A picture upright, in 8 bit, grey as RGB and without alpha.

    Returns:
        (1, 3, H, W) float32 in [0, 1].

    Raises:
        ValueError: The file is damaged, or no picture.
    """
    try:
        with Image.open(path) as picture:
            pixels = _rgb(ImageOps.exif_transpose(picture))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): replace it, or take it out of the folder"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def _rgb(picture: Image.Image) -> NDArray[np.uint8]:
    if not picture.mode.startswith("I;16"):
        return np.array(picture.convert("RGB"))
    # Of 16-bit grey, Pillow would make all that is above 255 white.
    grey = (np.asarray(picture) / 257).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
