"""From the pieces of an output to its rows, as a file holds them."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.evaluation import are_finite
from callbacks.predict.files import (
    Format,
    Size,
    fitted_pixels,
    image_levels,
    mixed_with_bicubic,
    to_pixels,
    weighted_by_alpha,
)
from degradations.base import as_floats
from degradations.bicubic import resize, source_of
from degradations.images import as_tensor
from files.batch import Piece
from files.images.deep import Pixels


class NotFiniteError(ValueError):
    """An output has pixels that are not finite."""


class Finish:
    """What becomes of an output before it is written: mixed with bicubic, with alpha, rounded.

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
        self.alpha = self.colours = None
        if meta.get("alpha") is not None:
            self.alpha = as_tensor(meta["alpha"])[None]
            self.colours = as_tensor(meta["colours"]).movedim(-1, 0)
            self.varies = meta["alpha"].min() < meta["alpha"].max()

    def levels(self, piece: Piece) -> Pixels:
        """Return a piece as a file of the format holds it: (rows, columns, C).

        Raises:
            NotFiniteError: If a pixel is not finite.
        """
        alpha = piece.sr[:, :0] if piece.alpha is None else piece.alpha
        if not bool(are_finite(piece.sr) & are_finite(alpha)):
            raise NotFiniteError("the output has pixels that are not finite")
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
        if piece.alpha is None:  # it is constant, or of a LightningModule that is no method of ours
            large = resize(alpha[None], image.shape[-2:], boxes=boxes)[0]
        else:
            large = mixed_with_bicubic(piece.alpha[0], alpha, self.strength, boxes)
        pixels = np.concatenate([levels, to_pixels(large, 8 * levels.itemsize)], axis=2)
        return fitted_pixels(pixels, self.format)


def strips_of(pieces: Iterable[Piece], finish: Finish) -> Iterator[Pixels]:
    """Yield rows of an image, (rows, W, C), as soon as all their pieces have come.

    Raises:
        NotFiniteError: If a pixel is not finite.
    """
    width = finish.size[1]
    strip: Pixels | None = None
    for piece in pieces:
        levels = finish.levels(piece)
        if levels.shape[1] == width:
            yield levels
            continue
        if strip is None:
            strip = _empty((levels.shape[0], width, levels.shape[2]), levels.dtype)
        strip[:, piece.columns] = levels
        if piece.columns.stop == width:
            yield strip
            strip = None


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Pixels:
    # In memory of its own, which the system has back at once: what the C library keeps of freed
    # strips would be in pieces, between those of the network.
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    pixels: Pixels = np.frombuffer(pages, dtype).reshape(shape)
    return pixels
