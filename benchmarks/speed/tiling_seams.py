"""How much tiles show in an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.noise import Span, Tile


def seam(image: Tensor, tiles: Sequence[Tile]) -> float:
    """Mean absolute gradient across the borders of tiles, over that across all other lines.

    Borders are the lines at which a tile begins or ends, and those at which it begins or ends to
    count, alone or beside its neighbours. Each is compared with other lines that lie in the same
    way between the pixels of LR, for gradients within one are smaller than those between two.

    Args:
        image: (..., H, W).
        tiles: Of it.

    Returns:
        About 1 where tiles do not show, in an image that is the same everywhere.
    """
    on, off = [], []
    for dim, spans in ((-2, [t.rows for t in tiles]), (-1, [t.columns for t in tiles])):
        lines = image.diff(dim=dim).abs().movedim(dim, 0).flatten(1).mean(1)
        factor = max(len(spans[0].window) // (spans[0].lr.stop - spans[0].lr.start), 1)
        crossed = torch.zeros(len(lines), dtype=torch.bool)
        crossed[[p - 1 for span in spans for p in borders(span) if 0 < p <= len(lines)]] = True
        for phase in range(factor):
            found, here = lines[phase::factor], crossed[phase::factor]
            if here.any():
                on.append(found[here].sum())
                off.append(found[~here].mean() * here.sum())
    return (sum(on, torch.zeros(())) / sum(off, torch.zeros(()))).item()


def borders(span: Span) -> list[int]:
    """First output pixels behind each border of a side of a tile."""
    counts, alone = (span.window > 0).nonzero(), (span.window > 1 - 1e-6).nonzero()
    found = [0, len(span.window)]
    for part in (counts, alone):
        if len(part):
            found += [int(part[0]), int(part[-1]) + 1]
    return [span.out.start + position for position in found]
