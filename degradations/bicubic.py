"""Bicubic: the classical degradation of super-resolution benchmarks, and its resize."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from degradations.base import Degradation, quantize_8bit
from degradations.device import copy_to
from degradations.draws import Draws, Params
from files.batch import Box


def resize(
    image: Tensor,
    size: Sequence[int],
    clamp: bool = True,
    boxes: Sequence[Box] | None = None,
) -> Tensor:
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
        boxes: B parts that the results cover, as Pillow's ``box``; the whole images by default. The
            result of a tile is then that part of the result of the whole image, in float32.

    Returns:
        (B, C, h, w), in [0, 1] with `clamp`.

    Source: Keys, "Cubic convolution interpolation for digital image processing" (1981), Eq. 4.
    """
    if boxes is not None:
        results = []
        images = torch.split(image.float(), 1)
        for one, box in zip(images, boxes, strict=True):
            results.append(_resize_part(one, size, box, clamp))
        return torch.cat(results)
    h, w = size
    H = image.shape[-2]
    # With antialias, torch's kernel has a = -1/2, too; -3/4 otherwise.
    rows = functional.interpolate(image, (H, w), mode="bicubic", antialias=True)
    if clamp:
        rows = rows.clamp(0.0, 1.0)
    if w == 1:  # torch reads beyond an image of one column: double it
        rows = rows.expand(-1, -1, -1, 2)
    width = rows.shape[-1]
    resized = functional.interpolate(rows, (h, width), mode="bicubic", antialias=True)
    resized = resized[..., :w]
    return resized.clamp(0.0, 1.0) if clamp else resized


def source_of(
    rows: slice, columns: slice, size: Sequence[int], from_size: Sequence[int]
) -> tuple[slice, slice, list[Box] | None]:
    """Return what a part of a resized image depends on.

    ``resize(image[..., ROWS, COLUMNS], SIZE OF THE PART, boxes=BOXES)`` is that part.

    Args:
        rows: The part of the result.
        columns: Likewise.
        size: (H, W) of the whole result.
        from_size: (h, w) of the whole image.

    Returns:
        Rows and columns of the image, and the box in them; None for the whole image.
    """
    if (rows.start, columns.start, rows.stop, columns.stop) == (0, 0, *size):
        return slice(0, from_size[0]), slice(0, from_size[1]), None
    source_rows, row_box = _source_of_axis(rows, size[0], from_size[0])
    source_columns, column_box = _source_of_axis(columns, size[1], from_size[1])
    return source_rows, source_columns, [(row_box, column_box)]


def _source_of_axis(part: slice, side: int, from_side: int) -> tuple[slice, tuple[float, float]]:
    """Return what a part of one side depends on: pixels of the source, and the box in them."""
    start = part.start * from_side / side
    stop = part.stop * from_side / side
    # The kernel reaches two pixels of the coarser image to either side.
    margin = 2 * max(1, from_side / side) + 1
    first = max(0, math.floor(start - margin))
    last = min(from_side, math.ceil(stop + margin))
    return slice(first, last), (start - first, stop - first)


def centres(count: int, start: float, stop: float) -> Tensor:
    """Return the centres of ``count`` pixels between two positions, (count,) float64."""
    width = (stop - start) / count
    index = torch.arange(count, dtype=torch.float64)
    return start + (index + 0.5) * width


def _resize_part(
    image: Tensor,
    size: Sequence[int],
    box: Box,
    clamp: bool,
) -> Tensor:
    """Resize a part of an image (1, C, H, W), as ``resize``."""
    # As `resize` for a part: clamped between the passes, too, as 8-bit programs do.
    h, w = size
    rows, columns = box
    image = _resample_axis(-1, image, w, columns)
    if clamp:
        image = image.clamp(0.0, 1.0)
    image = _resample_axis(-2, image, h, rows)
    if clamp:
        image = image.clamp(0.0, 1.0)
    return image.contiguous()


def _resample_axis(
    dim: int,
    image: Tensor,
    count: int,
    part: tuple[float, float],
) -> Tensor:
    """Resample the part of an axis to ``count`` pixels.

    `embedding_bag` sums weighted rows of a table, which are the lines of pixels across the axis.
    """
    # torch's own positions are float32: 1e-4 of a pixel off in an image of a megapixel.
    pixels, weights = _taps(image.shape[dim], count, *part)
    lines = image.movedim(dim, 0)
    sums = functional.embedding_bag(
        copy_to(pixels, image.device),
        lines.flatten(1),
        per_sample_weights=copy_to(weights, image.device, image.dtype),
        mode="sum",
    )
    resampled = sums.view(count, *lines.shape[1:])
    return resampled.movedim(0, dim)


def _taps(
    side: int,
    count: int,
    start: float,
    stop: float,
) -> tuple[Tensor, Tensor]:
    """Return the T source pixels of each target pixel: indices and weights, (count, T)."""
    width = max((stop - start) / count, 1.0)
    # A tile's part may reach beyond it by a pixel, which lies in the margin that is thrown away.
    centre = centres(count, start, stop)[:, None].clamp(0, side)
    first = (centre - 2 * width + 0.5).floor()
    tap_count = math.ceil(4 * width) + 1
    pixels = first + torch.arange(tap_count)
    offset = pixels + 0.5 - centre
    distance = (offset / width).abs()
    # The kernel: its centre lobe within one pixel, and negative lobes within two.
    near = (1 - distance).clamp(min=0)
    far = (2 - distance).clamp(min=0)
    centre_lobe = near * near * (1 - 2 * near)
    outer_lobes = far * far * (1 - far) / 2
    inside = (pixels >= 0) & (pixels < side)
    weights = (centre_lobe - outer_lobes) * inside
    weights = weights / weights.sum(1, keepdim=True)
    return pixels.clamp(0, side - 1).long(), weights


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
        size = self.lr_size(hr.shape[-2:])
        lr = resize(hr, size)
        return quantize_8bit(lr) if self.quantize else lr
