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
    for part, (origin, start, stop) in PARTS.items():
        source = sources[origin]
        if len(source.keys) < stop:
            raise ValueError(
                f"the images of {origin} are {len(source.keys)}; expected at least {stop}: check "
                f"the tars in {tars}, or unset ENLARGER_DATA to download CIFAR-10"
            )
        for number, index in enumerate(_sorted(source)[start:stop]):
            pixels = source.read(index)["hr"]
            write_image(folder / part / f"{number:04d}.png", pixels, Extras(), "png", 0)
    found = "the tars in $ENLARGER_DATA/cifar10" if tars.is_dir() else "torchvision's CIFAR10"
    write_whole(note, json.dumps({"from": found}) + "\n")
    return found


def _sorted(source: Source) -> list[int]:
    return sorted(range(len(source.keys)), key=lambda index: source.keys[index])
