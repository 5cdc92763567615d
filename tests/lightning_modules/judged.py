"""A tiny method with a discriminator; spawned processes and command lines import it too."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.adversarial import Adversarial, hinge_discriminator, hinge_generator
from lightning_modules.noise import Noise
from tests.lightning_modules.tiny import fill


class Judged(Adversarial):
    """One convolution that makes, and one that judges.

    Args:
        scale: Factor.
        accumulate: Batches a step.
        clip: Largest norm.
        nan: The batch in which a loss is NaN, of the ``generator``, the ``discriminator`` or both.
        whose: Which.
        judge: Whether there is a discriminator.
    """

    def __init__(
        self,
        scale: float = 2,
        accumulate: int = 1,
        clip: float | None = None,
        nan: int = -1,
        whose: str = "",
        judge: bool = True,
    ) -> None:
        super().__init__(
            scale,
            nn.Conv2d(3, 1, 3) if judge else None,
            partial(torch.optim.Adam, lr=0.02),
            accumulate,
            clip,
            optimizer=partial(torch.optim.Adam, lr=0.01),
            lr_scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9),
        )
        self.net = nn.Conv2d(3, 3, 3, padding=1)
        fill(self)
        self.nan, self.whose, self.batches = nan, whose, 0

    def generator_loss(self, batch: Any) -> tuple[Tensor, Any]:
        self.batches += 1
        sr = self.restore(batch, Noise(batch["seed"]))
        loss = functional.mse_loss(sr, batch["hr"])
        if self.discriminator is not None:
            loss = loss + 0.1 * hinge_generator([self.discriminator(sr)])
        return loss * self._factor("generator"), (sr.detach(), batch["hr"])

    def discriminator_loss(self, made: Any) -> Tensor:
        fake, real = made
        judge: Any = self.discriminator
        return hinge_discriminator([judge(real)], [judge(fake)]) * self._factor("discriminator")

    def _factor(self, of: str) -> float:
        return torch.nan if self.batches - 1 == self.nan and of in self.whose else 1.0

    def restore(self, batch: Any, noise: Noise) -> Tensor:
        return self.net(functional.interpolate(batch["lr"], size=batch["size"], mode="nearest"))
