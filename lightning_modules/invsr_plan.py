"""InvSR's settings and timesteps of sampling, counted from 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from degradations.estimate import noise_level

STARTS = (250, 200, 150, 100)  # section 3.2: enough of the signal is left
LADDER = (*STARTS, 50)
# As released. The paper's ablations also use others.
RELEASED = {1: [200], 2: [200, 100], 3: [200, 100, 50], 4: [200, 150, 100, 50], 5: [*LADDER]}
CALM = (4.0, 8.0, 16.0)  # noise in 8-bit levels up to which to start at 100, 150, 200

Solver = Literal["euler", "ancestral", "predicted"]


@dataclass(frozen=True)
class Sampling:
    """How InvSR samples.

    Args:
        guidance: Strength of classifier-free guidance; 1 for none, as in the paper.
        steps: Steps of sampling.
        start: Timestep to start at, one of ``training.starts``, or ``auto`` to choose it by the
            noise in each LR image. By default what was released for so many steps.
        timesteps: All timesteps, from the first one down, instead of ``steps`` and ``start``;
            counted from 1, as everywhere in these arguments.
        solver: ``euler`` goes from step to step without new noise, as released; ``ancestral`` adds
            unpredicted noise (algorithm 1); ``predicted`` adds noise that ``middle`` predicts.
        deterministic: Take the means of the predictors' and the autoencoder's distributions instead
            of drawing from them, when sampling; unpredicted noise is still drawn. In training only
            the autoencoder's.
        color_misaligned: Take the colours from the mirrored LR image, squeezed to the output, as
            released: they lie beside their places wherever a side is below ``patch`` or no multiple
            of 16. Only for the published numbers.
    """

    guidance: float = 1.0
    steps: int = 1
    start: int | Literal["auto"] | None = None
    timesteps: Sequence[int] | None = None
    solver: Solver = "euler"
    deterministic: bool = False
    color_misaligned: bool = False


@dataclass(frozen=True)
class Training:
    """What InvSR's predictor is trained for.

    Args:
        starts: Timesteps that are trained for.
        starting: Train the predictor for the start. False: for noise between the steps, which is
            put on the latent of HR, at all of ``starts`` but the first.
        perceptual_weight: Weight of the perceptual loss.
        adversarial_weight: Weight of the adversarial loss.
        adversarial_start: Steps without the adversarial loss, in which the discriminator is already
            trained.
    """

    starts: Sequence[int] = STARTS
    starting: bool = True
    perceptual_weight: float = 2.0
    adversarial_weight: float = 0.1
    adversarial_start: int = 10_000


def timesteps_for(steps: int, start: int | None = None) -> list[int]:
    """Return timesteps, noisiest first.

    Without a start those of the release; evenly spaced from 250 for more than five steps. With a
    start those of the paper's table 4 if possible; evenly spaced if there are too few in between.

    Args:
        steps: Number of timesteps, at least 1.
        start: The first timestep.
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
    """Choose the start for an image: the noisier, the earlier. The rule is ours.

    Args:
        lr: (1, 3, h, w) in [0, 1].
        starts: The choices.
    """
    level = noise_level(lr.cpu()) if min(lr.shape[-2:]) > 1 else math.nan
    rising = sorted(starts)
    return rising[min(sum(level > limit for limit in CALM), len(rising) - 1)]
