"""The tokenizer of a next-scale model: an autoencoder whose latents are bits at many scales.

Han et al., Infinity (CVPR 2025; arXiv 2412.04431), section 3.2, and Zhao et al., BSQ (arXiv
2406.07548): losses of pixels, a perceptual distance, a discriminator with hinge losses, the entropy
of bits, and the distance of latents to their codes. Infinity's code does not train its tokenizer.
Losses, weights and dropped scales are those of its authors' BitVAE, which trained the released
tokenizers (without its LeCam regularisation). BitVAE trains on all grids from 1x1 to 16x16, here
training is on those that are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from files.batch import Batch
from files.numbers import NonNegativeFloat, PositiveInt, UnitInterval
from lightning_modules.first_stage.reconstruction import Losses, Reconstruction
from lightning_modules.networks.autoencoders import BitwiseVAE
from lightning_modules.networks.bsq import (
    Scale,
    commitment,
    entropy_penalty,
    live_bits,
    proportional,
    quantized,
    scales_of,
)
from lightning_modules.noise import Noise, Size
from lightning_modules.sampling.tiling import padded

_DISTANCES = {"l1": functional.l1_loss, "l2": functional.mse_loss}


@dataclass(frozen=True)
class TokenizerLosses(Losses):
    """Losses of a tokenizer.

    Args:
        adversarial_weight: Weight of the adversarial loss.
        pixel_distance: ``l1``, as released, or ``l2``, the mean square, which learns rare strong
            colours in fewer steps.
        pixel_weight: Its weight; 2 for L1 in [0, 1] equals the release's 1 in [-1, 1].
        entropy_weight: Weight of the penalty for certain bits, with 0 and 1 equally frequent.
        commitment_weight: Weight of the distance of residuals, on the sphere, to their codes.
    """

    adversarial_weight: NonNegativeFloat = 0.3
    pixel_distance: Literal["l1", "l2"] = "l1"
    pixel_weight: NonNegativeFloat = 2.0
    entropy_weight: NonNegativeFloat = 0.4
    commitment_weight: NonNegativeFloat = 1.0


class Tokenizer(Reconstruction):
    """Train an autoencoder whose latents are bits.

    It does not enlarge: ``data.init_args.scale`` is 1, and the output is a reconstruction of LR.
    The discriminator judges decoded images: ``lightning_modules.PatchGAN``.

    Args:
        scale: 1; set by ``data.init_args.scale``.
        vae: The autoencoder.
        grids: (h, w) of the scales in positions of the latent, coarse to fine; the last one is that
            of a training crop. For other image sizes they are proportional.
        losses: The losses and their weights.
        drop_scales: Probability that a scale, except the last one, is dropped for a batch.
        partial_share: Share of batches in which only the first scales are decoded, never the last
            one. The first scales then also make good images, which NSARM needs. None by default,
            as released.
        partial_least: Least number of scales decoded in such a batch; the number is drawn, up to
            all but one.
        smaller: Factors by which the images of a batch are also downscaled, by area, and learned;
            all sizes count equally. For tokenizers that encode other sizes than a training crop,
            such as NSARM's for LR: norms over a whole image depend on its size.

    Raises:
        ValueError: If the scale is not 1.
    """

    losses: TokenizerLosses
    trained_parts = ("vae", "discriminator")
    released_parts = ("vae",)

    def __init__(
        self,
        scale: float,
        vae: BitwiseVAE,
        grids: Sequence[Size],
        losses: TokenizerLosses = TokenizerLosses(),
        drop_scales: UnitInterval = 0.5,
        partial_share: UnitInterval = 0.0,
        partial_least: PositiveInt = 1,
        smaller: Sequence[PositiveInt] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, losses, color_fix="none", **kwargs)
        self.vae = vae
        self.grids = [(int(h), int(w)) for h, w in grids]
        self.tile_multiple = vae.factor
        self.drop_scales = drop_scales
        self.partial_share = partial_share
        self.partial_least = partial_least
        self.smaller = list(smaller)

    # ------------------------------------------------------------------------------------- training

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Any]:
        """Return the sum of pixel, perceptual, entropy, commitment and adversarial loss."""
        hr = batch["hr"]
        loss, decoded = self._coding_loss(hr)
        for factor in self.smaller:
            # The discriminator judges images of one size only.
            smaller_loss, _ = self._coding_loss(functional.avg_pool2d(hr, factor), f"_{factor}")
            loss = loss + smaller_loss
        loss = loss / (1 + len(self.smaller)) + self.adversarial_loss(decoded)
        self.log("train/loss", loss)
        return loss, (hr, decoded.detach())

    def _coding_loss(self, hr: Tensor, name: str = "") -> tuple[Tensor, Tensor]:
        """Return the loss without the adversarial one, and the decoded images."""
        f = self.vae.encode(hr)
        dropped = self._dropped()

        def change(number: int, residual: Tensor) -> Tensor:
            # Without the code of a dropped scale, later scales code what it would have.
            return torch.zeros_like(residual) if dropped[number] else quantized(residual)

        scales = list(scales_of(f, self._grids_of(f), change, through=True))
        decoded_scales = [scale for scale, drop in zip(scales, dropped, strict=True) if not drop]
        decoded = self.vae.decode(scales[-1].total)
        pixel = _DISTANCES[self.losses.pixel_distance](decoded, hr)
        entropy = torch.stack([entropy_penalty(scale.residual) for scale in decoded_scales]).mean()
        distance = torch.stack([commitment(scale) for scale in decoded_scales]).mean()
        loss = self.losses.pixel_weight * pixel + self.losses.entropy_weight * entropy
        loss = loss + self.losses.commitment_weight * distance
        self.log(f"train/pixel{name}", pixel)
        self.log(f"train/entropy{name}", entropy)
        self.log(f"train/commitment{name}", distance)
        self._log_bits(f, scales, name)
        return loss + self.perceptual_loss(decoded, hr, name), decoded

    def _dropped(self) -> Tensor:
        """Return which scales of a batch are not decoded, (K,): at random, and the last ones."""
        count = len(self.grids)  # of the first scales that are decoded
        dropped = torch.rand(count) < self.drop_scales
        if self.partial_share and torch.rand(()) < self.partial_share:
            count = int(torch.randint(self.partial_least, count, ()))
        dropped[count - 1] = False  # the last one that is decoded stays
        dropped[count:] = True
        return dropped

    @torch.no_grad()
    def _log_bits(self, f: Tensor, scales: Sequence[Scale], name: str) -> None:
        """Log the length of latents, and how many bits of each scale vary."""
        # Codes have length 1, so a latent much longer than the number of scales is out of reach.
        self.log(f"train/latent_norm{name}", f.float().norm(dim=1).mean())
        for number, scale in enumerate(scales, 1):
            self.log(f"train/live_bits_scale_{number}{name}", live_bits(scale.bits).float())

    # ------------------------------------------------------------------------------------------ use

    def coded(self, images: Tensor) -> list[Scale]:
        """Return the codes of images, scale by scale.

        Args:
            images: (B, 3, H, W) in [0, 1], sides multiples of the autoencoder's factor.
        """
        f = self.vae.encode(images)
        return list(scales_of(f, self._grids_of(f)))

    def _grids_of(self, f: Tensor) -> list[Size]:
        """Return the grids of all scales for a latent, proportional to ``grids``."""
        return proportional(self.grids, (f.shape[-2], f.shape[-1]))

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Encode LR to bits and decode it; deterministic."""
        mirrored = padded(batch["lr"], self.vae.factor)
        made = self.vae.decode(self.coded(mirrored.lr)[-1].total)
        return mirrored.crop(made, batch["size"])
