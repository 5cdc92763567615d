"""Regression in latents: InvSR's network without diffusion, as a control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.backbone.space import Space
from lightning_modules.base import SuperResolver
from lightning_modules.frozen_base import check_space
from lightning_modules.latent_pairs import enlarged, latent_pair
from lightning_modules.networks.noise_predictor import NoisePredictor
from lightning_modules.noise import Noise
from lightning_modules.padding import padded

if TYPE_CHECKING:
    from datamodules.base import Batch


class LatentRegression(SuperResolver):
    """InvSR's predictor, trained as a regression.

    The predicted mean is added to the latent of the enlarged LR image.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        predictor: The network to train.
        space: The latents.
        patch: Side in LR pixels for training; as in ``InvSR``.

    Raises:
        ValueError: If scale, predictor and space do not fit together.
    """

    enlarged = staticmethod(enlarged)  # as `main.py encode` makes pairs

    def __init__(
        self,
        scale: float,
        predictor: NoisePredictor,
        space: Space,
        patch: int = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        self.predictor, self.space, self.patch = predictor, space, patch
        if (scale, predictor.latent) != (space.factor / predictor.divisor, space.channels):
            raise ValueError(
                f"LatentRegression got scale {self.scale:g} and a predictor for {predictor.latent} "
                f"channels that halves to 1/{predictor.divisor}; with this space it makes scale "
                f"{space.factor / predictor.divisor:g} of {space.channels} channels: set "
                "data.init_args.scale, or the predictor's latent and halvings"
            )
        self.tile, self.tile_overlap, self.tile_window = patch, patch // 2, "gaussian"
        self.tile_least = patch
        self.tile_always = True

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the distance between the latents."""
        z, y = latent_pair(self.space, batch)
        loss = functional.mse_loss(y + self.predictor(batch["lr"], 0.0).mean, z)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """One call; deterministic."""
        mirrored = padded(batch["lr"], self.predictor.divisor, self.patch)
        lr = mirrored.lr
        size = (round(lr.shape[-2] * self.scale), round(lr.shape[-1] * self.scale))
        y = self.space.encode(enlarged(lr, size))
        return mirrored.crop(self.space.decode(y + self.predictor(lr, 0.0).mean), batch["size"])

    def setup(self, stage: str) -> None:
        """Raise if the autoencoder has random weights.

        Raises:
            ValueError: If so.
        """
        super().setup(stage)
        check_space(self.space)
