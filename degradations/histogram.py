"""How often which value came: as a line of text, as a drawing; and tables of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from degradations.sheet import GREY, INK, PALE
from degradations.words import Bounds

Values = npt.NDArray[np.float64]
Colour = tuple[int, int, int]

WIDTH = 384  # of a drawing, in pixels
BLUE, ORANGE = (66, 113, 174), (221, 132, 82)

_HEIGHT, _FOOT = 120, 20
_BINS = 24
_BARS = " ▁▂▃▄▅▆▇█"


def histogram(sets: Sequence[tuple[Values, Colour]], bounds: Bounds | None = None) -> Image.Image:
    """Bars of each set side by side, over a grey ground where values may be.

    Args:
        sets: Values, not empty, and the colour of their bars.
        bounds: What values may be.
    """
    edges = bin_edges(np.concatenate([values for values, _ in sets]), bounds)
    image = Image.new("RGB", (WIDTH, _HEIGHT + _FOOT), "white")
    draw = ImageDraw.Draw(image)
    half = 0.5 if all(_whole(values) for values, _ in sets) else 0.0

    def x(value: float) -> float:
        inside = min(max(value, edges[0]), edges[-1])
        return 4 + float((inside - edges[0]) / (edges[-1] - edges[0])) * (WIDTH - 8)

    if bounds is not None:
        spans = [(value, value) for value in bounds.values] or [(bounds.low, bounds.high)]
        for low, high in spans:
            draw.rectangle((x(low - half), 0, max(x(high + half), x(low) + 2), _HEIGHT), PALE)
    shares = [np.histogram(values, edges)[0] / len(values) for values, _ in sets]
    top = max(float(share.max()) for share in shares) or 1.0
    for number, (share, (_, colour)) in enumerate(zip(shares, sets, strict=True)):
        for start, end, part in zip(edges[:-1], edges[1:], share, strict=True):
            width = (x(end) - x(start)) / len(sets)
            left = x(start) + number * width
            if part:
                y = _HEIGHT - max(1, round(part / top * (_HEIGHT - 6)))
                draw.rectangle((left, y, max(left, left + width - 1), _HEIGHT), colour)
    draw.line((0, _HEIGHT, WIDTH, _HEIGHT), INK)
    font = ImageFont.load_default(12)
    first, last = f"{edges[0] + half:.4g}", f"{edges[-1] - half:.4g}"
    draw.text((4, _HEIGHT + 3), first, GREY, font)
    draw.text((WIDTH - 4 - font.getlength(last), _HEIGHT + 3), last, GREY, font)
    return image


def bars(values: Values) -> str:
    """A histogram of one line."""
    counts, _ = np.histogram(values, bin_edges(values))
    heights = np.ceil(counts / counts.max() * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[h] for h in heights)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table of text."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def bin_edges(values: Values, bounds: Bounds | None = None) -> Values:
    """Borders of bins for all values, and for all that may be; whole numbers have bins alike."""
    low, high = float(values.min()), float(values.max())
    if bounds is not None:
        low, high = min(low, bounds.low), max(high, bounds.high)
    if not _whole(values):
        slack = 0.5 if low == high else 0.0
        return np.linspace(low - slack, high + slack, _BINS + 1, dtype=np.float64)
    low, high = math.floor(low), math.ceil(high)
    count = high - low + 1
    # Equally many numbers in each bin, or bins would differ for that alone.
    wide = next((n for n in range(1, count // 12 + 1) if count % n == 0 and count <= 48 * n), 1)
    if count > 48 * wide:
        return np.linspace(low - 0.5, high + 0.5, _BINS + 1, dtype=np.float64)
    return np.arange(low, high + 1.5 * wide, wide, dtype=np.float64) - 0.5


def _whole(values: Values) -> bool:
    return bool(np.all(values == np.round(values)))
