"""Autoencoders of images, trained for methods in latents.

Rombach et al., CVPR 2022 (arXiv 2112.10752), section 3.1: losses of pixels, a perceptual distance
and a patch discriminator, and either the divergence of a normal posterior or a codebook, whose loss
is that of diffusers' VQModel.

z     latent of an image, standardised for a denoiser       D(z)    decoded image

Differs from the paper in: the mean square beside L1; noise on the latents, so that the decoder
tolerates the errors of a diffusion; a constant weight of the adversarial loss; the hinge losses of
``adversarial.py``; ``PCASpace``, a small autoencoder of our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from files.batch import Batch
from files.numbers import NonNegativeFloat
from lightning_modules.backbone.space import Space
from lightning_modules.base import first_batches
from lightning_modules.first_stage.reconstruction import Losses, Reconstruction
from lightning_modules.noise import Noise
from lightning_modules.sampling.tiling import padded

INITIAL_BATCHES = 64  # batches from which an autoencoder starts


@dataclass(frozen=True)
class AutoencoderLosses(Losses):
    """Losses of an autoencoder.

    Args:
        l1_weight: Weight of the mean absolute error.
        l2_weight: Weight of the mean square error.
        kl_weight: Weight of the divergence of the posterior from a standard normal one, summed over
            a latent and divided by the image's values; for spaces with a posterior.
        commitment_weight: Weight of the loss of quantisation; for spaces with a codebook.
    """

    l1_weight: NonNegativeFloat = 1.0
    l2_weight: NonNegativeFloat = 0.0
    kl_weight: NonNegativeFloat = 1e-6
    commitment_weight: NonNegativeFloat = 1.0


class Autoencoder(Reconstruction):
    """Train the autoencoder of a space, for ``space_weights`` of methods in latents.

    It does not enlarge: ``data.init_args.scale`` is 1, and the output is a reconstruction of LR.
    The discriminator judges decoded images: ``lightning_modules.PatchGAN``.

    Args:
        scale: 1; set by ``data.init_args.scale``.
        space: The autoencoder: ``lightning_modules.PCASpace``, which starts at the principal
            components of training patches; ``KLSpace`` with the arguments of diffusers'
            AutoencoderKL; or ``ResShiftVQ``.
        losses: The losses and their weights.
        latent_noise: Greatest standard deviation of noise on standardised latents; each image's is
            drawn uniformly from 0 to it.

    Raises:
        ValueError: If the scale is not 1.
    """

    losses: AutoencoderLosses
    trained_parts = ("space", "discriminator")
    released_parts = ("space",)

    def __init__(
        self,
        scale: float,
        space: Space,
        losses: AutoencoderLosses = AutoencoderLosses(),
        latent_noise: NonNegativeFloat = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, losses, **kwargs)
        space.unfreeze()  # spaces are made frozen, for methods in latents
        self.space = space
        self.tile_multiple = space.factor
        self.latent_noise = latent_noise
        self._initialised = False

    # ------------------------------------------------------------------------------------- training

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Any]:
        """Return the sum of pixel, divergence, perceptual and adversarial loss.

        With ``crops.scales`` sides may be any: images are cut to whole latents.
        """
        hr = batch["hr"]
        H, W = hr.shape[-2:]
        hr = hr[..., : H - H % self.space.factor, : W - W % self.space.factor]
        mean, deviation = self.space.distribution(hr)
        z = mean if deviation is None else mean + deviation * torch.randn_like(mean)
        weights = self.losses
        losses = {"commitment": weights.commitment_weight * self.space.commitment(z)}
        decoded = self.space.decode(self._noised(z))
        losses["l1"] = weights.l1_weight * functional.l1_loss(decoded, hr)
        losses["l2"] = weights.l2_weight * functional.mse_loss(decoded, hr)
        if deviation is not None:
            losses["kl"] = weights.kl_weight * self._divergence(mean, deviation) / hr[0].numel()
        loss = torch.stack(list(losses.values())).sum()
        loss = loss + self.perceptual_loss(decoded, hr) + self.adversarial_loss(decoded)
        for name, value in losses.items():
            self.log(f"train/{name}", value)
        self.log("train/latent_deviation", z.std())
        self.log("train/loss", loss)
        return loss, (hr, decoded.detach())

    def _noised(self, z: Tensor) -> Tensor:
        """Add noise to latents, one level for each image, up to ``latent_noise``."""
        if not self.latent_noise:
            return z
        levels = self.latent_noise * torch.rand(len(z), 1, 1, 1, device=z.device)
        return z + levels * torch.randn_like(z)  # one level for each image

    def _divergence(self, mean: Tensor, deviation: Tensor) -> Tensor:
        """Return the divergence of the posterior from a standard normal distribution."""
        # In the encoder's own units, not standardised. Summed over a latent, averaged over the
        # batch.
        deviation = deviation * self.space.deviation
        mean = mean * self.space.deviation + self.space.mean
        terms = mean.square() + deviation.square() - 1 - 2 * deviation.clamp(min=1e-10).log()
        return terms.sum() / 2 / len(mean)

    # ------------------------------------------------------------------------------------------ use

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Encode and decode LR; deterministic."""
        mirrored = padded(batch["lr"], self.space.factor)
        return mirrored.crop(self.space.decode(self.space.encode(mirrored.lr)), batch["size"])

    def setup(self, stage: str) -> None:
        """Also begin a new training with an autoencoder that is fitted to its first images."""
        super().setup(stage)
        if stage != "fit" or self._initialised:  # Lightning may call it again
            return
        self._initialised = True
        # Before DDP copies the weights of rank 0, and EMA and the optimiser read them.
        if self.trainer.ckpt_path is None and self.weights_source is None:
            batches = [batch["hr"] for batch in first_batches(self, INITIAL_BATCHES)]
            self.space.initialise(joined_crops(batches))


def joined_crops(batches: Sequence[Tensor]) -> Tensor:
    """Crop batches of images to the least height and width among them, and join them to one.

    With ``crops.scales`` sizes differ between batches. Images of one size have the same number of
    patches, and so the same weight in the principal components that a space begins with.

    Args:
        batches: Each (B, 3, H, W).
    """
    H = min(images.shape[-2] for images in batches)
    W = min(images.shape[-1] for images in batches)
    return torch.cat([images[..., :H, :W] for images in batches])
