"""Temporary changes of a base's U-Net during a call.

A training-free method for larger images may change layers of the network at some steps. Such a
change is a ``NetworkPatch``, an argument of the sampling method. It is applied and undone around
each call, also after an exception, so that weights, names and checkpoints never change.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor

from lightning_modules.backbone.condition import Condition, guided
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.stages import Size


@dataclass(frozen=True)
class Step:
    """A sampling step, for a patch.

    Args:
        number: Number of the step, counted from 0 at the sampler's noisiest timestep, also if
            sampling starts in between.
        count: Number of steps from pure noise.
        size: (h, w) of the latent.
        trained: (h, w) of the latents that the base was trained for.
    """

    number: int
    count: int
    size: Size
    trained: Size

    @property
    def growth(self) -> float:
        """Number of positions, relative to what the base was trained for."""
        return math.prod(self.size) / math.prod(self.trained)


class NetworkPatch(ABC):
    """Base of the patches."""

    def check(self, denoiser: UNet2D, guidance: float) -> None:
        """Raise if the base does not support the patch.

        Args:
            denoiser: The base.
            guidance: Strength of classifier-free guidance; 1 for none.

        Raises:
            ValueError: If the base is compiled.
        """
        if denoiser.flags.compile:
            raise ValueError(
                f"model.init_args.patch is {type(self).__name__}, which has no effect on a "
                "compiled network: set compile in model.init_args.denoiser.init_args.flags to false"
            )

    @abstractmethod
    def applied(self, denoiser: UNet2D, step: Step) -> AbstractContextManager[None]:
        """Change the network within the context.

        Args:
            denoiser: The base.
            step: Current step.
        """

    def guided(
        self,
        denoiser: UNet2D,
        step: Step,
        predict: Callable[[Tensor, Tensor, Condition], Tensor],
        z: Tensor,
        t: Tensor,
        known: tuple[Condition, Condition],
        guidance: float,
    ) -> Tensor:
        """Return the network's raw output with guidance; a patch may have its own rule.

        Args:
            denoiser: The base.
            step: Current step.
            predict: Calls the network.
            z: (B, C, ...), noisy.
            t: (B,).
            known: Conditions with and without the caption.
            guidance: Strength of classifier-free guidance; 1 for none.
        """
        with self.applied(denoiser, step):
            return guided(predict, z, t, *known, guidance)

    @property
    def options(self) -> dict[str, str | int | float]:
        """Settings that change outputs; they label results."""
        return {"patch": type(self).__name__}
