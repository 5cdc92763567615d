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

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.adversarial import Adversarial, hinge_discriminator, hinge_generator
from lightning_modules.backbone.space import Space
from lightning_modules.noise import Noise
from lightning_modules.sampling.tiling import padded

if TYPE_CHECKING:
    from datamodules.base import Batch

BEGIN = 64  # batches from which an autoencoder starts


class Autoencoder(Adversarial):
    """Train the autoencoder of a space, for ``space_weights`` of methods in latents.

    It does not enlarge: ``data.init_args.scale`` is 1, and the output is a reconstruction of LR.
    The discriminator judges decoded images: ``lightning_modules.PatchGAN``.

    Args:
        scale: 1; set by ``data.init_args.scale``.
        space: The autoencoder: ``lightning_modules.PCASpace``, which starts at the principal
            components of training patches; ``KLSpace`` with the arguments of diffusers'
            AutoencoderKL; or ``ResShiftVQ``.
        l1_weight: Weight of the mean absolute error.
        l2_weight: Weight of the mean square error.
        kl_weight: Weight of the divergence of the posterior from a standard normal one, summed over
            a latent and divided by the image's values; for spaces with a posterior.
        commitment_weight: Weight of the loss of quantisation; for spaces with a codebook.
        latent_noise: Greatest standard deviation of noise on standardised latents; each image's is
            drawn uniformly from 0 to it.
        perceptual: Distance of two batches of images in [0, 1], (B,), such as
            ``callbacks.Perceptual``; frozen, only for training.
        perceptual_weight: Its weight.
        adversarial_weight: Weight of the adversarial loss.
        adversarial_start: Steps without the adversarial loss, in which the discriminator is already
            trained.

    Raises:
        ValueError: If the scale is not 1, a weight is negative, or the space has nothing to train.
    """

    training_only = ("discriminator.", "perceptual.")

    def __init__(
        self,
        scale: float,
        space: Space,
        l1_weight: float = 1.0,
        l2_weight: float = 0.0,
        kl_weight: float = 1e-6,
        commitment_weight: float = 1.0,
        latent_noise: float = 0.0,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        adversarial_weight: float = 0.1,
        adversarial_start: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        if scale != 1:
            raise ValueError(
                f"an autoencoder does not enlarge, and scale is {scale:g}: set "
                "data.init_args.scale to 1"
            )
        numbers = {
            "l1_weight": l1_weight,
            "l2_weight": l2_weight,
            "kl_weight": kl_weight,
            "commitment_weight": commitment_weight,
            "latent_noise": latent_noise,
            "perceptual_weight": perceptual_weight,
            "adversarial_weight": adversarial_weight,
        }
        for name, value in numbers.items():
            if not value >= 0:
                raise ValueError(f"model.init_args.{name} is {value}; expected 0 or more")
        if space.source or not any(True for _ in space.parameters()):
            raise ValueError(
                f"model.init_args.space, {type(space).__name__}, has "
                f"{'weights of its own' if space.source else 'no weights'}: set an untrained "
                "autoencoder, and initial weights in model.init_args.weights"
            )
        space.thaw()
        self.space, self.tile_multiple = space, space.factor
        self.l1_weight, self.l2_weight = l1_weight, l2_weight
        self.kl_weight, self.commitment_weight = kl_weight, commitment_weight
        self.latent_noise = latent_noise
        self.perceptual = None if perceptual is None else perceptual.requires_grad_(False)
        self.perceptual_weight, self.adversarial_weight = perceptual_weight, adversarial_weight
        self.adversarial_start = adversarial_start

    # ------------------------------------------------------------------------------------- training

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Any]:
        """Return the sum of pixel, divergence, perceptual and adversarial loss."""
        hr = batch["hr"]
        mean, deviation = self.space.distribution(hr)
        z = mean if deviation is None else mean + deviation * torch.randn_like(mean)
        losses = {"commitment": self.commitment_weight * self.space.commitment(z)}
        made = self.space.decode(self._noised(z))
        losses["l1"] = self.l1_weight * functional.l1_loss(made, hr)
        losses["l2"] = self.l2_weight * functional.mse_loss(made, hr)
        if deviation is not None:
            losses["kl"] = self.kl_weight * self._divergence(mean, deviation) / hr[0].numel()
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual_weight * self.perceptual(made, hr).mean()
        if self.discriminator is not None and self.global_step >= self.adversarial_start:
            losses["adversarial"] = self.adversarial_weight * hinge_generator(
                self.discriminator(made)
            )
        loss = torch.stack(list(losses.values())).sum()
        for name, value in losses.items():
            self.log(f"train/{name}", value)
        self.log("train/latent_deviation", z.std())
        self.log("train/loss", loss, prog_bar=True)
        return loss, (hr, made.detach())

    def _noised(self, z: Tensor) -> Tensor:
        if not self.latent_noise:
            return z
        levels = self.latent_noise * torch.rand(len(z), 1, 1, 1, device=z.device)
        return z + levels * torch.randn_like(z)

    def _divergence(self, mean: Tensor, deviation: Tensor) -> Tensor:
        # Of a whole latent as the encoder gives it, a mean over the batch.
        deviation = deviation * self.space.deviation
        mean = mean * self.space.deviation + self.space.mean
        terms = mean.square() + deviation.square() - 1 - 2 * deviation.clamp(min=1e-10).log()
        return terms.sum() / 2 / len(mean)

    def discriminator_loss(self, made: Any) -> Tensor:
        """Return the hinge loss of real and decoded images."""
        real, fake = (cast(nn.Module, self.discriminator)(images) for images in made)
        loss = hinge_discriminator(real, fake)
        self.log("train/discriminator", loss)
        return loss

    # ------------------------------------------------------------------------------------------ use

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Encode and decode LR; deterministic."""
        mirrored = padded(batch["lr"], self.space.factor)
        return mirrored.crop(self.space.decode(self.space.encode(mirrored.lr)), batch["size"])

    def setup(self, stage: str) -> None:
        """Load parts that only training needs, and start a new training from its first images.

        Raises:
            FileNotFoundError: If the weights of the perceptual distance are missing.
        """
        super().setup(stage)
        if stage != "fit":
            return
        if hasattr(self.perceptual, "load"):
            cast(Any, self.perceptual).load()
        # Before DDP copies the weights of rank 0, and EMA and the optimiser read them.
        if self.trainer.ckpt_path is None and self.weights_source is None:
            self.space.begin(torch.cat([batch["hr"] for batch in self.first_batches(BEGIN)]))

    def import_official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map a released file, which has only the autoencoder."""
        own = self.state_dict().items()
        kept = {name: tensor for name, tensor in own if not name.startswith("space.")}
        found = self.space.official(tensors)
        return {**kept, **{f"space.{name}": tensor for name, tensor in found.items()}}
