"""The photographs: BSDS400 for training, at several sizes, and squares of Kodak's to test on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from callbacks.predict.files import Extras, write_image
from datamodules.sources.crops import Crops, OneLR, shrunk
from datamodules.sources.folder import Folder
from files.paths import expand_path

if TYPE_CHECKING:
    from datamodules.base import Batch

VARIABLE = "ENLARGER_PHOTOS"  # names the folder in configurations
BSDS, KODAK = "$ENLARGER_DATA/bsds400", "$ENLARGER_DATA/kodak24"
SHRUNK = (1, 2, 4, 6)  # a cascade's first stages see small images of large things


def write_photos(folder: Path) -> None:
    """Write BSDS400 at several sizes as PNG files, unless they are there.

    Args:
        folder: Where to.

    Raises:
        ValueError: If BSDS400 is missing.
    """
    note = folder / "whole"
    if note.is_file():
        return
    paths = sorted(Path(expand_path(BSDS, "BSDS400")).glob("*.jpg"))
    if not paths:
        raise ValueError(f"{BSDS} has no photographs: set ENLARGER_DATA to the folder above it")
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        for factor in SHRUNK:
            size = pixels.shape[0] // factor, pixels.shape[1] // factor
            made = shrunk(pixels, size)
            write_image(folder / f"{path.stem}_{factor}.png", made, Extras(), "png", 0)
    note.touch()


def squares(side: int, lr_side: int, scale: float, per_photo: int, every: int = 1) -> Batch:
    """Return squares of Kodak's photographs, as one batch.

    Args:
        side: Side of the squares in the photographs, in pixels.
        lr_side: Side that LR is shrunk to.
        scale: HR is shrunk to so many times that, rounded; at most ``side``.
        per_photo: Squares of each photograph, which follow one another.
        every: Take every so many-th square.

    Returns:
        ``key``, ``seed``, ``size``, and ``hr`` and ``lr`` (B, 3, ., .) in [0, 1].
    """
    source = OneLR(Crops(Folder(KODAK), side, per_photo), lr_side)
    source.prepare(scale)
    keys = list(source.keys)[::every]
    samples = [source.read(index) for index in range(0, len(source.keys), every)]
    hr, lr = (
        torch.from_numpy(np.stack([sample[name] for sample in samples])).movedim(-1, 1) / 255
        for name in ("hr", "lr")
    )
    return {
        "key": keys,
        "seed": torch.arange(len(samples)),
        "size": (hr.shape[-2], hr.shape[-1]),
        "hr": hr,
        "lr": lr,
    }
