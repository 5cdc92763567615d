"""Where InvSR's sampling starts, and the timesteps that follow; all are counted from 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from degradations.estimate import noise_level

STARTS = (250, 200, 150, 100)  # section 3.2: enough of the signal is left
LADDER = (*STARTS, 50)
# As released. The paper's ablations have others besides.
RELEASED = {1: [200], 2: [200, 100], 3: [200, 100, 50], 4: [200, 150, 100, 50], 5: [*LADDER]}
CALM = (4.0, 8.0, 16.0)  # noise in 8-bit levels, up to which to start at 100, 150, 200

Solver = Literal["euler", "ancestral", "predicted"]


def timesteps_for(steps: int, start: int | None = None) -> list[int]:
    """Timesteps from the first one down.

    Without a start those of the release, for more than five steps evenly down from 250. With one
    those of the paper's table 4, where it has such, and evenly where there are too few in between.

    Args:
        steps: How many; at least 1.
        start: The first one.
    """
    released = RELEASED.get(steps)
    if released is not None and start in (None, released[0]):
        return released
    if start is None:
        start = LADDER[0]
    below, wanted = [t for t in LADDER if t < start], steps - 1
    if wanted <= len(below):
        return [start, *(below[-(-n * len(below) // wanted) - 1] for n in range(1, steps))]
    # NumPy's rounding is part of the released lists, e.g. of 30 steps.
    even = np.linspace(start, 0, steps, endpoint=False, dtype=np.int64)
    return [int(t) for t in even]


def start_for(lr: Tensor, starts: Sequence[int] = STARTS) -> int:
    """The start for a picture by its noise: the noisier, the earlier. Ours; the paper suggests it.

    Args:
        lr: (1, 3, h, w) in [0, 1].
        starts: Of which one is chosen.
    """
    level = noise_level(lr.cpu()) if min(lr.shape[-2:]) > 1 else math.nan
    rising = sorted(starts)
    return rising[min(sum(level > limit for limit in CALM), len(rising) - 1)]
