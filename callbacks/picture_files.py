"""Find image files below folders, and read them as a metric sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from degradations import pictures


def find_pictures(places: Sequence[str | Path]) -> list[Path]:
    """Return all images in files and folders (and below them), each once, sorted by path.

    Hidden files are skipped: a killed run may have left them half-written.

    Raises:
        ValueError: If a place is missing or holds no image.
    """
    found: set[Path] = set()
    for place in map(Path, places):
        if not place.exists():
            raise ValueError(f"{place} is neither a file nor a folder; give the path of images")
        found.update(pictures.find_images(place) if place.is_dir() else [place])
    return sorted(found)


def read_picture(path: Path) -> Tensor:
    """Read an image upright, in 8-bit sRGB as outputs are, grey as RGB and without alpha.

    Returns:
        (1, 3, H, W) float32 in [0, 1].

    Raises:
        ValueError: If the file is damaged or not an image.
    """
    return (pictures.read_image(path) * 255).round() / 255
