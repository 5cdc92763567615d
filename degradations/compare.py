"""Noise and blur of degraded photographs beside those of real ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from degradations.base import Degradation
from degradations.estimate import blur_width, noise_level
from degradations.histogram import BLUE, ORANGE, WIDTH, Values, aligned, histogram
from degradations.pictures import cropped, list_pictures, read_picture
from degradations.sheet import Section, Tile

log = logging.getLogger(__name__)

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass
class Photographs:
    """Estimates of a set of photographs, (N,) each; NaN where there was nothing to go by.

    noise: In 8-bit levels.
    blur: In pixels.
    """

    noise: Values
    blur: Values


def degraded(
    degradation: Degradation, folder: Path, count: int, crop: int, seed: int = 0
) -> Photographs:
    """Estimates of what the degradation makes of photographs.

    Args:
        degradation: Any.
        folder: HR photographs; their middle is used. If there are fewer than `count`, each is
            degraded several times.
        count: How many LR pictures to make.
        crop: Side of the HR's middle in pixels.
        seed: Of the first of them; the others follow.
    """
    paths = list_pictures(folder)
    chosen = _spread(paths, count)
    times = -(-count // len(chosen))
    noise, blur = [], []
    number = seed
    for hr in _middles(chosen, crop, folder):
        for _ in range(times):
            if number - seed < count:
                params = degradation.params_of(torch.tensor([number]), hr.shape)
                lr = degradation.replay(hr, params)
                noise.append(noise_level(lr))
                blur.append(blur_width(lr))
                number += 1
    return Photographs(np.array(noise), np.array(blur))


def photographs(folder: Path, count: int, crop: int) -> Photographs:
    """Estimates of photographs as they are.

    Args:
        folder: The photographs; their middle is looked at.
        count: At most so many of them, evenly out of the folder.
        crop: Side of their middle in pixels.
    """
    middles = list(_middles(_spread(list_pictures(folder), count), crop, folder))
    return Photographs(
        np.array([noise_level(middle) for middle in middles]),
        np.array([blur_width(middle) for middle in middles]),
    )


def _spread(paths: list[Path], count: int) -> list[Path]:
    if len(paths) <= count:
        return paths
    return [paths[i * len(paths) // count] for i in range(count)]


def _middles(paths: list[Path], crop: int, folder: Path) -> Iterator[torch.Tensor]:
    reasons = []
    for path in tqdm(paths, str(folder), disable=None):
        try:
            middle = cropped(read_picture(path), crop, name=str(path))
        except ValueError as error:
            reasons.append(str(error))
            continue
        yield middle
    if len(reasons) == len(paths):
        raise ValueError(f"no picture of {folder} can be used: {reasons[0]}")
    if reasons:
        log.warning("%d of %d left out, such as: %s", len(reasons), len(paths), reasons[0])


def comparison(ours: Photographs, real: Photographs) -> str:
    """Quantiles of the estimates of both sets, one above the other."""
    rows = [("estimate", "of", *(f"{q:.0%}" for q in QUANTILES), "pictures")]
    for name, unit in (("noise", "of 255"), ("blur", "px")):
        for whose, those in (("the degraded", ours), ("the real", real)):
            values: Values = getattr(those, name)
            values = values[np.isfinite(values)]
            numbers = np.quantile(values, QUANTILES) if len(values) else [math.nan] * 5
            rows.append(
                (f"{name} ({unit})", whose, *(f"{v:.2f}" for v in numbers), str(len(values)))
            )
    return aligned(rows)


def compared(ours: Photographs, real: Photographs) -> Section:
    """The estimates of both sets, drawn."""
    tiles = []
    for name, unit in (("noise", "of 255"), ("blur", "px")):
        sets = [getattr(ours, name), getattr(real, name)]
        sets = [values[np.isfinite(values)] for values in sets]
        if not all(map(len, sets)):
            continue
        drawing = histogram([(sets[0], BLUE), (sets[1], ORANGE)])
        medians = [float(np.median(values)) for values in sets]
        words = [f"median {medians[0]:.2f} of the degraded, {medians[1]:.2f} of the real"]
        tiles.append(Tile(drawing, f"estimated {name}, {unit}", words))
    words = ["Blue: what the degradation makes of HR photographs. Orange: the real photographs."]
    return Section("Degraded and real photographs", tiles, WIDTH, exact=True, words=words)
