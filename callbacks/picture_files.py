"""Pictures for the commands of this folder: found below folders, read as a metric sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from degradations import pictures


def find_pictures(places: Sequence[str | Path]) -> list[Path]:
    """All pictures in files and folders (and below them), each once, sorted by path.

    What is hidden below a folder is left out: it may be half of what a killed run was writing.

    Raises:
        ValueError: A place is not there, or holds no picture.
    """
    found: set[Path] = set()
    for place in map(Path, places):
        if not place.exists():
            raise ValueError(f"{place} is neither a file nor a folder; give where pictures are")
        found.update(pictures.find_images(place) if place.is_dir() else [place])
    return sorted(found)


def read_picture(path: Path) -> Tensor:
    """A picture upright, in sRGB of 8 bits as outputs are, grey as RGB and without alpha.

    Returns:
        (1, 3, H, W) float32 in [0, 1].

    Raises:
        ValueError: The file is damaged, or no picture.
    """
    return (pictures.read_image(path) * 255).round() / 255
