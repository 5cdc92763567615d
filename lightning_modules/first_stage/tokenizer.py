"""The tokenizer of a next-scale model: an autoencoder whose latents are bits at many scales.

Han et al., Infinity (CVPR 2025; arXiv 2412.04431), section 3.2, and Zhao et al., BSQ (arXiv
2406.07548): losses of pixels, a perceptual distance, a discriminator with hinge losses, the entropy
of bits, and the distance of latents to their codes. Infinity's code does not train its tokenizer.
Losses, weights and dropped scales are those of its authors' BitVAE, which trained the released
tokenizers (without its LeCam regularisation). BitVAE trains on all grids from 1x1 to 16x16, here
training is on those that are used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from files.method import BitwiseMethod
from lightning_modules.first_stage.reconstruction import Reconstruction, not_negative
from lightning_modules.networks.autoencoders import BitwiseVAE, bitwise_vae_from_official
from lightning_modules.networks.bsq import (
    Scale,
    commitment,
    entropy_penalty,
    live_bits,
    quantized,
    scales_of,
)
from lightning_modules.networks.scales import proportional
from lightning_modules.noise import Noise, Size
from lightning_modules.sampling.tiling import padded

if TYPE_CHECKING:
    from files.batch import Batch

log = logging.getLogger(__name__)

Distance = Literal["l1", "l2"]
_ENOUGH = 8  # codes of a scale in a batch, to conclude that it carries no information
_DISTANCES = {"l1": functional.l1_loss, "l2": functional.mse_loss}


class Tokenizer(Reconstruction, BitwiseMethod):
    """Train an autoencoder whose latents are bits.

    It does not enlarge: ``data.init_args.scale`` is 1, and the output is a reconstruction of LR.
    The discriminator judges decoded images: ``lightning_modules.PatchGAN``.

    Args:
        scale: 1; set by ``data.init_args.scale``.
        vae: The autoencoder.
        grids: (h, w) of the scales in positions of the latent, coarse to fine; the last one is that
            of a training crop. For other image sizes they are proportional.
        pixel_distance: ``l1``, as released, or ``l2``, the mean square, which learns rare strong
            colours in fewer steps.
        pixel_weight: Its weight; 2 for L1 in [0, 1] equals the release's 1 in [-1, 1].
        entropy_weight: Weight of the penalty for certain bits, with 0 and 1 equally frequent.
        commitment_weight: Weight of the distance of residuals, on the sphere, to their codes.
        drop_scales: Probability that a scale, except the last one, is dropped for a batch.
        partial_share: Share of batches in which only the first scales are decoded, never the last
            one. The first scales then also make good images, which NSARM needs. None by default,
            as released.
        partial_least: Least number of scales decoded in such a batch; the number is drawn, up to
            all but one.
        smaller: Factors by which the images of a batch are also downscaled, by area, and learned;
            all sizes count equally. For tokenizers that encode other sizes than a training crop,
            such as NSARM's for LR: norms over a whole image depend on its size.
        adversarial_weight: Weight of the adversarial loss.

    Raises:
        ValueError: If the scale is not 1, there is no grid, the distance is unknown, a weight is
            negative, ``drop_scales`` or ``partial_share`` is out of range, ``partial_least`` is not
            below the number of scales, or a factor is below 2.
    """

    def __init__(
        self,
        scale: float,
        vae: BitwiseVAE,
        grids: Sequence[Size],
        pixel_distance: Distance = "l1",
        pixel_weight: float = 2.0,
        entropy_weight: float = 0.4,
        commitment_weight: float = 1.0,
        drop_scales: float = 0.5,
        partial_share: float = 0.0,
        partial_least: int = 1,
        smaller: Sequence[int] = (),
        adversarial_weight: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, adversarial_weight=adversarial_weight, color_fix="none", **kwargs)
        not_negative(
            pixel_weight=pixel_weight,
            entropy_weight=entropy_weight,
            commitment_weight=commitment_weight,
        )
        if pixel_distance not in _DISTANCES:
            raise ValueError(
                f"model.init_args.pixel_distance is {pixel_distance!r}; expected l1 or l2"
            )
        if not 0 <= drop_scales < 1:
            raise ValueError(f"model.init_args.drop_scales is {drop_scales}; expected 0 to below 1")
        if min(smaller, default=2) < 2:
            raise ValueError(
                f"model.init_args.smaller is {list(smaller)}; expected factors of 2 or more"
            )
        if not grids:
            raise ValueError("model.init_args.grids is empty; expected at least one, as [[8, 8]]")
        if not 0 <= partial_share <= 1:
            raise ValueError(f"model.init_args.partial_share is {partial_share}; expected 0 to 1")
        if partial_share and not 1 <= partial_least < len(grids):
            raise ValueError(
                f"model.init_args.partial_least is {partial_least}; expected 1 to "
                f"{len(grids) - 1}, less than the number of model.init_args.grids"
            )
        self.vae, self.grids = vae, [(int(h), int(w)) for h, w in grids]
        self.tile_multiple = vae.factor
        self.pixel_distance: Distance = pixel_distance
        self.pixel_weight, self.entropy_weight = pixel_weight, entropy_weight
        self.commitment_weight, self.drop_scales = commitment_weight, drop_scales
        self.partial_share, self.partial_least = partial_share, partial_least
        self.smaller = list(smaller)
        self._live: Tensor | None = None  # live bits of each scale, in the last batch
        self._enough: list[bool] = []  # whether each scale had enough codes to conclude from them

    # ------------------------------------------------------------------------------------- training

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Any]:
        """Return the sum of pixel, perceptual, entropy, commitment and adversarial loss."""
        hr = batch["hr"]
        loss, made = self._coding_loss(hr)
        for factor in self.smaller:
            loss = loss + self._coding_loss(self._shrunk(hr, factor), f"_{factor}")[0]
        loss = loss / (1 + len(self.smaller)) + self.adversarial_loss(made)
        self.log("train/loss", loss)
        return loss, (hr, made.detach())

    def _coding_loss(self, hr: Tensor, name: str = "") -> tuple[Tensor, Tensor]:
        # Also returns the decoded images. `name` is a suffix of logged names.
        f = self.vae.encode(hr)
        dropped = self._dropped()

        def change(number: int, residual: Tensor) -> Tensor:
            return torch.zeros_like(residual) if dropped[number] else quantized(residual)

        scales = list(scales_of(f, self._grids_of(f), change, through=True))
        kept = [scale for scale, drops in zip(scales, dropped, strict=True) if not drops]
        made = self.vae.decode(scales[-1].total)
        pixel = _DISTANCES[self.pixel_distance](made, hr)
        entropy = torch.stack([entropy_penalty(scale.residual) for scale in kept]).mean()
        distance = torch.stack([commitment(scale) for scale in kept]).mean()
        loss = self.pixel_weight * pixel + self.entropy_weight * entropy
        loss = loss + self.commitment_weight * distance
        self.log(f"train/pixel{name}", pixel, prog_bar=True)
        self.log(f"train/entropy{name}", entropy)
        self.log(f"train/commitment{name}", distance)
        self._log_bits(f, scales, name)
        return loss + self.perceptual_loss(made, hr, name), made

    def _dropped(self) -> Tensor:
        """Return which scales of a batch are not decoded, (K,): at random, and the last ones."""
        dropped, count = torch.rand(len(self.grids)) < self.drop_scales, len(self.grids)
        if self.partial_share and torch.rand(()) < self.partial_share:
            count = int(torch.randint(self.partial_least, count, ()))
        dropped[count - 1], dropped[count:] = False, True
        return dropped

    @torch.no_grad()
    def _log_bits(self, f: Tensor, scales: Sequence[Scale], name: str) -> None:
        # Codes have length 1, so a latent much longer than the number of scales is out of reach.
        self.log(f"train/latent_norm{name}", f.float().norm(dim=1).mean())
        live = torch.stack([live_bits(scale.bits) for scale in scales])
        for number, count in enumerate(live, 1):
            self.log(f"train/live_bits_scale_{number}{name}", count.float())
        if not name:
            self._live = live  # stays on the device: the host would wait
            # Few codes may agree by chance.
            self._enough = [
                scale.code.numel() // scale.code.shape[1] >= _ENOUGH for scale in scales
            ]

    def on_validation_start(self) -> None:
        """Warn about scales without information."""
        super().on_validation_start()
        self._warn_about_silence()

    def on_train_end(self) -> None:
        """Warn about scales without information."""
        super().on_train_end()
        self._warn_about_silence()

    def _warn_about_silence(self) -> None:
        live = [] if self._live is None else self._live.tolist()
        silent = [n for n, count in enumerate(live, 1) if self._enough[n - 1] and count == 0]
        if not silent:
            return
        log.warning(
            "no bit of scale %s differed between images in the last training batch, so it carries "
            "no information: set a higher model.init_args.entropy_weight, or fewer grids",
            ", ".join(map(str, silent)),
        )

    def _shrunk(self, hr: Tensor, factor: int) -> Tensor:
        unit = factor * self.vae.factor
        h, w = hr.shape[-2:]
        if h % unit or w % unit:
            raise ValueError(
                f"images of {h}x{w} cannot be downscaled by {factor}; expected multiples of "
                f"{unit}: set data.init_args.crop_size, or other factors in model.init_args.smaller"
            )
        return functional.avg_pool2d(hr, factor)

    # ------------------------------------------------------------------------------------------ use

    def coded(self, images: Tensor) -> list[Scale]:
        """Return the codes of images, scale by scale.

        Args:
            images: (B, 3, H, W) in [0, 1], sides multiples of the autoencoder's factor.
        """
        f = self.vae.encode(images)
        return list(scales_of(f, self._grids_of(f)))

    def _grids_of(self, f: Tensor) -> list[Size]:
        return proportional(self.grids, (f.shape[-2], f.shape[-1]))

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Encode LR to bits and decode it; deterministic."""
        mirrored = padded(batch["lr"], self.vae.factor)
        made = self.vae.decode(self.coded(mirrored.lr)[-1].total)
        return mirrored.crop(made, batch["size"])

    @torch.no_grad()
    def bits_of(self, batch: Batch) -> list[Tensor] | None:
        """Return the codes (B, d, h_k, w_k) of each scale of LR; None if grids are not whole."""
        if any(side % self.vae.factor for side in batch["lr"].shape[-2:]):
            return None
        return [scale.code for scale in self.coded(batch["lr"])]

    @torch.no_grad()
    def decoded(self, total: Tensor) -> Tensor:
        """Decode the sum of codes (B, d, h, w) to images (B, 3, H, W)."""
        return self.vae.decode(total)

    @torch.no_grad()
    def encoded(self, images: Tensor) -> Tensor:
        """Encode images to latents (B, d, h, w), not quantised."""
        return self.vae.encode(images)

    # -------------------------------------------------------------------------------------- weights

    def import_official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map a released file, which has only the autoencoder."""
        own = self.state_dict().items()
        kept = {name: tensor for name, tensor in own if not name.startswith("vae.")}
        found = bitwise_vae_from_official(tensors)
        return {
            **kept,
            **{f"vae.{k}": tensor for k, tensor in found.items()},
        }
