"""The images of the miniature: CIFAR-10's automobiles, written once as PNG files.

All runs then read the same folder, and commands that run side by side download nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from callbacks.predict.files import Extras, write_image
from datamodules.shards.shards import Shards
from datamodules.source import Source
from datamodules.sources.torchvision import Torchvision
from files.owned import write_whole

VARIABLE = "ENLARGER_CARS"  # names the folder in configurations
PARTS = {"train": ("train", 0, 4500), "val": ("train", 4500, 5000), "test": ("test", 0, 256)}
ORIGIN = "origin.json"
TARS = "$ENLARGER_DATA/cifar10"


def write_images(folder: Path) -> str:
    """Write the images of all parts, unless they are there.

    The tars of ``$ENLARGER_DATA/cifar10`` are read if they are there; else torchvision downloads
    CIFAR-10 into ``folder``.

    Args:
        folder: Where to; it gets a folder for each part.

    Returns:
        Where the images are from.

    Raises:
        ValueError: If there are too few images.
    """
    note = folder / ORIGIN
    if note.is_file():
        return str(json.loads(note.read_text(encoding="utf-8"))["from"])
    tars = Path(os.path.expandvars(TARS))
    sources: dict[str, Source] = {
        part: Shards(f"{tars}/{part}-automobile-*.tar")
        if tars.is_dir()
        else Torchvision(
            "CIFAR10", str(folder / "cifar10"), ["automobile"], train=part == "train", download=True
        )
        for part in ("train", "test")
    }
    for source in sources.values():
        source.prepare(1.0)
    hint = f"check the tars in {tars}, or unset ENLARGER_DATA to download CIFAR-10"
    for part, (origin, start, stop) in PARTS.items():
        write_part(folder / part, sources[origin], (start, stop), f"the images of {origin}", hint)
    found = "the tars in $ENLARGER_DATA/cifar10" if tars.is_dir() else "torchvision's CIFAR10"
    write_whole(note, json.dumps({"from": found}) + "\n")
    return found


def write_part(folder: Path, source: Source, span: tuple[int, int], what: str, hint: str) -> None:
    """Write some of a source's images, in the order of their keys, as numbered PNG files.

    Args:
        folder: Where to.
        source: The source, prepared.
        span: Number of the first image, and of the one after the last.
        what: What the source's images are, for the error.
        hint: How to fix it.

    Raises:
        ValueError: If there are too few images.
    """
    start, stop = span
    order = sorted(range(len(source.keys)), key=source.keys.__getitem__)
    if len(order) < stop:
        raise ValueError(f"{what} are {len(order)}; expected at least {stop}: {hint}")
    for number, index in enumerate(order[start:stop]):
        write_image(folder / f"{number:04d}.png", source.read(index)["hr"], Extras(), "png", 0)
