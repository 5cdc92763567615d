"""Training that autoencoders share: images against their reconstructions.

Perceptual and adversarial losses as in Esser et al., "Taming Transformers" (CVPR 2021; arXiv
2012.09841), section 3.1, with a constant weight of the adversarial loss and the hinge losses of
``adversarial.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from files.numbers import NonNegativeFloat, NonNegativeInt
from lightning_modules.adversarial import Adversarial, hinge_discriminator, hinge_generator


@dataclass(frozen=True)
class Losses:
    """Losses of images against their reconstructions.

    Args:
        perceptual: Distance of two batches of images in [0, 1], (B,), such as
            ``callbacks.Perceptual``; frozen, only for training.
        perceptual_weight: Its weight.
        adversarial_weight: Weight of the adversarial loss.
        adversarial_start: Steps without the adversarial loss, in which the discriminator is already
            trained.
    """

    perceptual: nn.Module | None = None
    perceptual_weight: NonNegativeFloat = 1.0
    adversarial_weight: NonNegativeFloat = 0.1
    adversarial_start: NonNegativeInt = 0


class Reconstruction(Adversarial):
    """A method that learns to reconstruct images, and does not enlarge.

    Args:
        scale: 1; set by ``data.init_args.scale``.
        losses: The losses and their weights.

    Raises:
        ValueError: If the scale is not 1.
    """

    training_only = ("discriminator.", "perceptual.")

    def __init__(self, scale: float, losses: Losses, **kwargs: Any) -> None:
        super().__init__(scale, **kwargs)
        if scale != 1:
            raise ValueError(
                f"{type(self).__name__} does not enlarge, and scale is {scale:g}: set "
                "data.init_args.scale to 1"
            )
        self.perceptual = losses.perceptual
        self.losses = losses

    def load_training_parts(self) -> None:
        """Load the perceptual distance.

        Raises:
            FileNotFoundError: If its weights are missing.
        """
        super().load_training_parts()
        if hasattr(self.perceptual, "load"):  # a distance of the user's own need not have weights
            cast(Any, self.perceptual).load()

    def perceptual_loss(self, decoded: Tensor, hr: Tensor, name: str = "") -> Tensor:
        """Return the mean perceptual distance times its weight, and log it; 0 without a distance.

        Args:
            decoded: (B, 3, H, W) in [0, 1].
            hr: (B, 3, H, W) in [0, 1].
            name: Suffix of the logged name.
        """
        if self.perceptual is None:
            return decoded.new_zeros(())
        loss = self.losses.perceptual_weight * cast(Tensor, self.perceptual(decoded, hr)).mean()
        self.log(f"train/perceptual{name}", loss)
        return loss

    def adversarial_loss(self, decoded: Tensor) -> Tensor:
        """Return the weighted hinge loss of reconstructions, and log it; 0 before its start.

        Args:
            decoded: (B, 3, H, W) in [0, 1].
        """
        if self.discriminator is None or self.global_step < self.losses.adversarial_start:
            return decoded.new_zeros(())
        loss = self.losses.adversarial_weight * hinge_generator(self.discriminator(decoded))
        self.log("train/adversarial", loss)
        return loss

    def discriminator_loss(self, judged: Any) -> Tensor:
        """Return the hinge loss of real and decoded images."""
        real, fake = (cast(nn.Module, self.discriminator)(images) for images in judged)
        loss = hinge_discriminator(real, fake)
        self.log("train/discriminator", loss)
        return loss
