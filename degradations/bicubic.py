"""Bicubic: the classical degradation of super-resolution benchmarks, and its resize."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from degradations.base import Degradation, quantize_8bit
from degradations.draws import Draws, Params


def resize(image: Tensor, size: Sequence[int], clamp: bool = True) -> Tensor:
    """Resize with the cubic kernel a = -1/2, widened by the factor when shrinking (antialiasing).

    This is the kernel of Pillow's BICUBIC and MATLAB's `imresize`, for any real factor, up or down;
    the factor of each side is the ratio of its sizes. Weights outside the image are dropped and the
    others rescaled, as in Pillow. (MATLAB repeats or mirrors pixels there: its files differ in a
    margin of two pixels of the smaller image, and agree to 53 dB or better on Set5.)

    Args:
        image: (B, C, H, W) floating.
        size: (h, w) of the result.
        clamp: Clamp to [0, 1] after each of the two passes, rows first, as 8-bit programs must;
            without it, sharp edges differ from theirs by up to 17 levels. Set to False for anything
            but images in [0, 1], e.g. features.

    Returns:
        (B, C, h, w), in [0, 1] with `clamp`.

    Source: Keys, "Cubic convolution interpolation for digital image processing" (1981), Eq. 4.
    """
    h, w = size
    # With antialias, torch's kernel has a = -1/2, too; -3/4 otherwise.
    rows = functional.interpolate(image, (image.shape[-2], w), mode="bicubic", antialias=True)
    if clamp:
        rows = rows.clamp(0.0, 1.0)
    if w == 1:  # torch reads beyond an image of one column: double it
        rows = rows.expand(-1, -1, -1, 2)
    resized = functional.interpolate(rows, (h, rows.shape[-1]), mode="bicubic", antialias=True)
    resized = resized[..., :w]
    return resized.clamp(0.0, 1.0) if clamp else resized


class Bicubic(Degradation):
    """Shrink by antialiased bicubic interpolation; nothing random.

    Agrees with Pillow's BICUBIC on 8-bit images to one level.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        quantize: Round the LR to 8 bits, as in the files of benchmarks.
    """

    any_scale = True

    def __init__(self, scale: float, quantize: bool = True) -> None:
        super().__init__(scale)
        self.quantize = quantize

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw nothing."""
        return {}

    def degrade(self, hr: Tensor, params: Params) -> Tensor:
        """Resize (B, 3, H, W) to (B, 3, *lr_size((H, W)))."""
        lr = resize(hr, self.lr_size(hr.shape[-2:]))
        return quantize_8bit(lr) if self.quantize else lr
