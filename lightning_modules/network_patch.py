"""Changes to a base's U-Net while it is called, and not longer.

A method for larger images that trains nothing may change layers of the network at some steps.
Such a change is a ``NetworkPatch``, an argument of the method that samples; around each call it is
made and taken back, also after an exception, so that weights, names and checkpoints never know.
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
    """What a patch knows of a step of sampling.

    Args:
        number: Of the step, from 0 at the noisiest timestep of the sampler; where sampling starts
            in between, not from 0.
        count: How many steps there are from noise alone.
        size: (h, w) of the latent.
        trained: That of the latents that the base was trained for.
    """

    number: int
    count: int
    size: Size
    trained: Size

    @property
    def growth(self) -> float:
        """How many times as many positions there are as the base was trained for."""
        return math.prod(self.size) / math.prod(self.trained)


class NetworkPatch(ABC):
    """Base of the patches."""

    def check(self, denoiser: UNet2D, guidance: float) -> None:
        """Refuse a base on which it would not do what it says.

        Args:
            denoiser: The base.
            guidance: Strength of classifier-free guidance; 1 for none.

        Raises:
            ValueError: The base is compiled.
        """
        if denoiser.flags.compile:
            raise ValueError(
                f"model.init_args.patch is {type(self).__name__}, which a compiled network would "
                "not notice: set compile in model.init_args.denoiser.init_args.flags to false"
            )

    @abstractmethod
    def applied(self, denoiser: UNet2D, step: Step) -> AbstractContextManager[None]:
        """Within it the network is another; after it, as it was.

        Args:
            denoiser: The base.
            step: Where sampling is.
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
        """The network's raw output under classifier-free guidance; a patch may have its own rule.

        Args:
            denoiser: The base.
            step: Where sampling is.
            predict: Calls the network.
            z: (B, C, ...), noisy.
            t: (B,).
            known: What the denoiser is told, and what in the other branch.
            guidance: 1 for none.
        """
        with self.applied(denoiser, step):
            return guided(predict, z, t, *known, guidance)

    @property
    def options(self) -> dict[str, str | int | float]:
        """Settings of which images depend; results are told apart by them."""
        return {"patch": type(self).__name__}
