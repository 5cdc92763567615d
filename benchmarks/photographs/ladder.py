"""ResShift and NSARM from HR: upper bounds, which show what their last steps can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from files.batch import Batch
from files.numbers import NonNegativeInt
from files.weights import load_part, read_weights
from lightning_modules import NSARM, ResShift
from lightning_modules.latents import latent_pair
from lightning_modules.noise import Noise
from lightning_modules.sampling.solvers import residual_shift


class ResShiftFromHR(ResShift):
    """ResShift that starts at HR, shifted to LR and noised as far as one of its timesteps.

    This is where a network without an error in all earlier steps would be.

    Args:
        first: The timestep, from 0. The last one is ResShift itself.
    """

    def __init__(self, first: NonNegativeInt, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = first

    def load_weights(self, path: str | Path, strict: bool = True) -> None:
        """Load the network of a run of ``ResShift``."""
        load_part(self.network, read_weights(path), "network")

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Take the papers' steps down from the first one. Sides must be multiples of the tiles'."""
        z, y = latent_pair(self.space, batch)
        process, lr = self.sampled, batch["lr"] * 2 - 1
        t = torch.full((len(z),), self.first, device=z.device)
        x = process.add_noise(z, y, noise.normal(z.shape), t)
        for step in reversed(range(self.first + 1)):
            raw = self.network(process.scale_input(x, step), torch.full_like(t, step), lr)
            x0 = process.to_x0(raw, x, step, y)
            fresh = noise.normal(x.shape) if step > 0 else None
            x = residual_shift(
                x, x0, process.eta(step), process.eta(step - 1), process.kappa, fresh
            )
        return self.space.decode(x)


class NSARMFromHR(NSARM):
    """NSARM whose first scales are those of HR, which the batch has as LR at scale 1.

    This is where a mapper without an error would be.
    """

    def load_weights(self, path: str | Path, strict: bool = True) -> None:
        """Load the transformer of a run of ``NSARM``."""
        load_part(self.transformer, read_weights(path), "transformer")

    def preliminary(self, y: Tensor) -> list[Tensor]:
        """Return the codes of the first scales.

        Args:
            y: (B, d, H, W), HR's latent.
        """
        return [scale.code for scale in self.space.coded(y)[: len(self.mapper.grids)]]
