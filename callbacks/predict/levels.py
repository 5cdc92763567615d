"""From the pieces of an output to its levels, as a file holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.evaluation import are_finite
from callbacks.predict.files import (
    BY_ROWS,
    OPAQUE,
    WHOLE,
    Format,
    Size,
    fitted_pixels,
    image_levels,
    mixed_with_bicubic,
    to_pixels,
    unwritable_reason,
    weighted_by_alpha,
)
from degradations.base import as_floats
from degradations.bicubic import resize, source_of
from degradations.images import as_tensor
from files.batch import Piece
from files.images import arrays
from files.images.colours import GREY
from files.images.deep import Pixels
from files.memory import refuse_file, refuse_whole


class OutputError(ValueError):
    """An output that cannot be written, because of its size or its pixels."""


class Finish:
    """The last steps of an output: mix it with bicubic, add alpha, and round it to levels.

    Args:
        lr: What it is made of, (1, 3, h, w) in [0, 1] or levels; only its parts become floats.
        size: (H, W) of the output.
        meta: The input's ``mode``, ``bit_depth``, and with transparency ``alpha``, (h, w), and
            ``colours``, (h, w, 3).
        format: File format.
        strength: Share of the method's output; the rest is the bicubic enlargement.
    """

    def __init__(
        self, lr: Tensor, size: Size, meta: Mapping[str, Any], format: Format, strength: float
    ) -> None:
        self.lr = lr
        self.size = size
        self.meta = meta
        self.format = format
        self.strength = strength
        self.bit_depth: int = meta.get("bit_depth", 8)
        self.alpha = self.colours = None
        if meta.get("alpha") is not None:
            self.alpha = as_tensor(meta["alpha"])[None]
            self.colours = as_tensor(meta["colours"]).movedim(-1, 0)
            self.varies = meta["alpha"].min() < meta["alpha"].max()
        self.has_alpha = self.alpha is not None and format not in OPAQUE
        # Pillow cannot read 16-bit grey with alpha.
        is_colour = meta.get("mode") not in GREY or (self.has_alpha and self.bit_depth == 16)
        self.colour_channels = 3 if is_colour else 1
        self.channels = self.colour_channels + self.has_alpha

    @property
    def disk_bytes(self) -> int:
        """Bytes that it may take: of its file and, if they are on the disk as well, its levels."""
        levels = self.size[0] * self.size[1] * self.channels * self.bit_depth // 8
        return 2 * levels if levels > arrays.LARGE else levels

    def empty(self, folder: Path) -> Pixels:
        """Return an array (H, W, C) for all levels, in memory or in a file of a folder.

        Raises:
            OutputError: If the format cannot have this size.
            MemoryError: If there is no room for it.
        """
        reason = unwritable_reason(self.size, self.format)
        if reason:
            raise OutputError(reason)
        refuse_file(self.size, self.disk_bytes, folder)
        if self.format not in BY_ROWS:
            refuse_whole(self.size, WHOLE, torch.device("cpu"))
        return arrays.empty((*self.size, self.channels), f"uint{self.bit_depth}", folder)

    def levels(self, piece: Piece) -> Pixels:
        """Return a piece as a file of the format holds it: (rows, columns, C).

        Raises:
            OutputError: If a pixel is not finite.
        """
        alpha = piece.sr[:, :0] if piece.alpha is None else piece.alpha
        if not bool(are_finite(piece.sr) & are_finite(alpha)):
            raise OutputError("the output has pixels that are not finite")
        image = piece.sr[0]
        if self.strength == 1 and self.alpha is None:
            return image_levels(image, self.meta)
        lr_size = self.lr.shape[-2:]
        rows, columns, boxes = source_of(piece.rows, piece.columns, self.size, lr_size)
        lr = as_floats(self.lr[..., rows, columns])
        image = mixed_with_bicubic(image, lr, self.strength, boxes)
        if self.alpha is None or self.colours is None:
            return image_levels(image, self.meta)
        alpha = as_floats(self.alpha[..., rows, columns]).to(image.device)
        if self.varies:
            seen = lr[0].to(image.device, torch.float32)
            colours = as_floats(self.colours[..., rows, columns]).to(image.device)
            image = weighted_by_alpha(image.float(), seen, colours, alpha, boxes)
        levels = image_levels(image, self.meta)
        if levels.shape[2] < self.colour_channels:
            levels = levels.repeat(3, axis=2)
        if piece.alpha is None:  # it is constant, or of a LightningModule that is no method of ours
            large = resize(alpha[None], image.shape[-2:], boxes=boxes)[0]
        else:
            large = mixed_with_bicubic(piece.alpha[0], alpha, self.strength, boxes)
        pixels = np.concatenate([levels, to_pixels(large, 8 * levels.itemsize)], axis=2)
        return fitted_pixels(pixels, self.format)


def levels_of(
    pieces: Iterable[Piece],
    finish: Finish,
    folder: Path,
    watch: Callable[[Pixels, Size], None] | None = None,
) -> Pixels:
    """Return the levels of an image, (H, W, C), from its pieces as a method yields them.

    Args:
        pieces: Its parts, row by row.
        finish: How each becomes levels.
        folder: Where a large array is stored.
        watch: Called with each finished part, (rows, W, C), and the image's (H, W).

    Raises:
        OutputError: If the image cannot be written.
        MemoryError: If there is no room for it.
    """
    levels = finish.empty(folder)
    for piece in pieces:
        levels[piece.rows, piece.columns] = finish.levels(piece)
        if piece.columns.stop < finish.size[1]:
            continue
        if watch is not None:
            watch(levels[piece.rows], finish.size)
        arrays.give_back(levels)
    return levels
