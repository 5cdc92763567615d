"""Settings of InvSR: what its predictor is trained for, and how it samples.

Timesteps count from 1, as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from files.numbers import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from lightning_modules.networks.noise_predictor import NoisePredictor

STARTS = (250, 200, 150, 100)  # section 3.2: enough of the signal is left
LADDER = (*STARTS, 50)

# As released. The paper's ablations also use others.
RELEASED = {1: [200], 2: [200, 100], 3: [200, 100, 50], 4: [200, 150, 100, 50], 5: [*LADDER]}


@dataclass(frozen=True)
class Sampling:
    """How InvSR samples.

    Args:
        guidance: Strength of classifier-free guidance; 1 for none, as in the paper. Training has
            none, as released.
        steps: Steps of sampling.
        start: Timestep to start at, one of ``training.starts``. By default that of the release for
            so many steps, or the first of ``training.starts`` if that is not trained. The steps are
            spread from the start down.
        timesteps: All timesteps, from the first one down, instead of ``steps`` and ``start``;
            counted from 1, as everywhere in these arguments.
        solver: ``euler`` goes from step to step without new noise, as released; ``ancestral`` adds
            unpredicted noise (algorithm 1); ``predicted`` adds noise that ``middle`` predicts.
        deterministic: Take the means of the predictors' and the autoencoder's distributions instead
            of drawing from them, when sampling; unpredicted noise is still drawn. In training only
            the autoencoder's.
        middle: The predictor of noise between the steps, trained with ``training.starting`` false.
        middle_weights: Its weights: a run that trained it, or a file.
        color_misaligned: Take the colours from the mirrored LR image, squeezed to the output, as
            released: they lie beside their places wherever a side is below ``patch`` or no multiple
            of 16. Only for the published numbers.
    """

    guidance: float = 1.0
    steps: PositiveInt = 1
    start: PositiveInt | None = None
    timesteps: Sequence[PositiveInt] | None = None
    solver: Literal["euler", "ancestral", "predicted"] = "euler"
    deterministic: bool = False
    middle: NoisePredictor | None = None
    middle_weights: str | None = None
    color_misaligned: bool = False


def adam_l2(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Adam with a learning rate of 5e-5 and an L2 penalty, as released for the discriminator."""
    return torch.optim.Adam(parameters, lr=5e-5, weight_decay=1e-3, fused=True)


@dataclass(frozen=True)
class Training:
    """What InvSR's predictor is trained for, and against what.

    Args:
        starts: Timesteps that are trained for, the first one first. The default is the paper's, for
            scale 4 in Stable Diffusion's latents.
        starting: Train the predictor for the start. False: for noise between the steps, which is
            put on the latent of HR, at all of ``starts`` but the first.
        perceptual: Distance of two batches of latents, (B,), such as
            ``lightning_modules.LatentLPIPS``; frozen.
        perceptual_weights: Its weights: a file, a run that trained it, or a name of
            ``configs/weights.yaml``.
        perceptual_weight: Weight of the perceptual loss.
        adversarial_weight: Weight of the adversarial loss.
        adversarial_start: Steps without the adversarial loss, in which the discriminator is already
            trained.
        discriminator: Judges latents, given timestep and text.
        discriminator_weights: Weights from which it starts, as released.
        discriminator_optimizer: Makes its optimiser.
        accumulate: Batches per step, whose gradients are accumulated.
        clip: Largest norm of the gradient of a step, for each optimiser; unlimited by default.
    """

    starts: Sequence[PositiveInt] = STARTS
    starting: bool = True
    perceptual: nn.Module | None = None
    perceptual_weights: str | None = None
    perceptual_weight: NonNegativeFloat = 2.0
    adversarial_weight: NonNegativeFloat = 0.1
    adversarial_start: NonNegativeInt = 10_000
    discriminator: nn.Module | None = None
    discriminator_weights: str | None = None
    discriminator_optimizer: OptimizerCallable = adam_l2
    accumulate: PositiveInt = 1
    clip: PositiveFloat | None = None


def timesteps_for(steps: int, start: int | None = None) -> list[int]:
    """Return timesteps, noisiest first.

    Without a start those of the release; evenly spaced from 250 for more than five steps. With a
    start those of the paper's table 4 if possible; evenly spaced below a start that the paper does
    not have, or if there are too few in between.

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
    if start in LADDER and wanted <= len(below):
        return [start, *(below[-(-n * len(below) // wanted) - 1] for n in range(1, steps))]
    # NumPy's rounding is part of the released lists, e.g. of 30 steps.
    even = np.linspace(start, 0, steps, endpoint=False, dtype=np.int64)
    return [int(t) for t in even]
