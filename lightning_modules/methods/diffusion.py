"""Denoising diffusion: images from noise, and the base of other methods.

Ho et al., NeurIPS 2020 (arXiv 2006.11239); weights of the loss from Hang et al., ICCV 2023 (arXiv
2303.09556); sampling by DDIM (Song et al., ICLR 2021; arXiv 2010.02502), with the guidance of Ho
and Salimans (2022; arXiv 2207.12598).

z     image in the space              eps    noise
t     timestep                          x0     predicted clean sample

Differs from the papers in: nothing, with their `min_snr` and `guidance`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from files.batch import Batch
from files.method import changed
from files.numbers import NonNegativeInt, PositiveFloat, PositiveInt, UnitInterval
from lightning_modules.backbone.condition import Condition, TextEncoder, guided
from lightning_modules.backbone.denoiser import Denoiser, UNet2D
from lightning_modules.backbone.library import resized
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.backbone.space import PixelSpace, Space
from lightning_modules.base import Generator
from lightning_modules.latents import InLatents, check_base
from lightning_modules.noise import Noise
from lightning_modules.sampling.captions import (
    check_guidance,
    drop_captions,
    encode_captions,
    sample_shape,
    training_images,
)
from lightning_modules.sampling.solvers import Sampler

TRAILING = Sampler(spacing="trailing")


class Diffusion(InLatents, Generator):
    """Train a denoiser, and generate images from noise, with or without captions.

    Args:
        scale: Whole factor between the sides of the data's images and of the learned images. Images
            are averaged over squares of that side, and outputs are enlarged by repeating pixels.
            Set by ``data.init_args.scale``; 1 to learn images as they are.
        denoiser: Predicts from the noisy sample, the timestep and the text.
        space: Space of the diffusion; pixels by default.
        schedule: The process, and what the network predicts; 1000 steps of noise prediction by
            default.
        timesteps: Range to train on, end excluded, such as [0, 300]; all by default. A smaller
            range is for bases of methods that start in between; it cannot generate from pure noise.
        min_snr: Gamma of the weights by signal-to-noise ratio, 5 in the paper; ``null`` for equal
            weights.
        encoder: Encodes captions; without it captions are ignored.
        caption_dropout: Share of captions to drop in training, for guidance.
        sampler: Timesteps, solver and guidance.

    Raises:
        ValueError: If the scale is not whole, or there is guidance without an encoder.
    """

    trained_parts = ("denoiser",)
    trained_settings: ClassVar[Mapping[str, str]] = {
        **InLatents.trained_settings,
        "timesteps": "timesteps",
        "schedule": "schedule.settings",
    }
    weight: Tensor

    def __init__(
        self,
        scale: float,
        denoiser: Denoiser,
        space: Space | None = None,
        schedule: Schedule | None = None,
        timesteps: tuple[NonNegativeInt, PositiveInt] | None = None,
        min_snr: PositiveFloat | None = None,
        encoder: TextEncoder | None = None,
        caption_dropout: UnitInterval = 0.1,
        sampler: Sampler = TRAILING,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        if self.scale != int(self.scale):
            raise ValueError(
                f"Diffusion got scale {self.scale:g}; expected a whole number: set "
                "data.init_args.scale, 1 to learn images as they are"
            )
        check_guidance(encoder, sampler.guidance)
        self.denoiser = denoiser
        self.space = space or PixelSpace()
        self.schedule = schedule or Schedule()
        self.timesteps = timesteps or (0, self.schedule.steps)
        self.encoder = encoder
        self.caption_dropout = caption_dropout
        self.sampler = sampler
        self.weights_source = denoiser.source or None  # a trained denoiser is enough to sample
        self.sampled = sampler.timesteps(self.schedule.steps)
        self.register_buffer("weight", min_snr_weights(self.schedule, min_snr), persistent=False)

    # -------------------------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Algorithm 1 of Ho et al., for any prediction type: the loss at random timesteps."""
        z = self.latent(batch)
        t = torch.randint(*self.timesteps, (len(z),), device=z.device)
        eps = torch.randn_like(z)
        z_t = self.schedule.add_noise(z, eps, t)
        conditions = encode_captions(batch, self.denoiser, self.encoder)
        condition = drop_captions(*conditions, self.caption_dropout)
        raw = self.denoiser(self.schedule.scale_input(z_t, t), t, condition)
        errors = (raw - self.schedule.target(z, eps, t)).square().flatten(1).mean(1)
        loss = (self.weight[t] * errors).mean()
        self.log("train/loss", loss)
        return loss

    @torch.no_grad()
    def latent(self, batch: Batch) -> Tensor:
        """Return the latents to learn, (B, C, h, w): from the batch, or encoded from its images.

        For clips (B, C, F, h, w).

        Raises:
            ValueError: If the latents are of another space, or of full size at a scale that samples
                smaller ones.
        """
        if "latent" in batch:
            if self.scale != 1 and self._all_timesteps:
                raise ValueError(
                    "data.init_args.train has latents of whole images, and those of 1/"
                    f"{self.scale:g} of their sides would be sampled: set data.init_args.scale to 1"
                )
            return self.space.take(batch["latent"], batch["space"])
        x = training_images(batch)
        small = (x.shape[-2] // int(self.scale), x.shape[-1] // int(self.scale))
        return self.space.encode(resized(x, small, "area"))

    # -------------------------------------------------------------------------------- sampling

    @torch.no_grad()
    def generate(self, batch: Batch, noise: Noise) -> Tensor:
        """Denoise from pure noise to images; by default DDIM, equation 12.

        Raises:
            ValueError: If it was trained on only some timesteps, or the size is no multiple.
        """
        conditions = encode_captions(batch, self.denoiser, self.encoder)

        def clean(z: Tensor, timestep: int) -> Tensor:
            """Return the clean sample that the network predicts, for the sampler."""
            t = torch.full((len(z),), timestep, device=z.device)
            raw = guided(self._network_output, z, t, *conditions, self.sampler.guidance)
            return self.schedule.to_x0(raw, z, timestep)

        first = self.schedule.level(self.sampled[0])
        # Data of variance 1 plus the noise of the first step.
        deviation = (first.alpha**2 + first.sigma**2) ** 0.5
        z = noise.normal(self._latent_shape(batch)) * deviation
        z = self.sampler.denoise(z, self.sampled, clean, self.schedule, noise)
        size = (batch["size"][0], batch["size"][1])
        return resized(self.space.decode(z), size, "nearest-exact")

    def _network_output(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the denoiser's output for a sample at timesteps t."""
        return self.denoiser(self.schedule.scale_input(z, t), t, condition)

    @property
    def _all_timesteps(self) -> bool:
        """Whether the denoiser is trained on all timesteps, so that it can start from noise."""
        return self.timesteps == (0, self.schedule.steps)

    def _latent_shape(self, batch: Batch) -> tuple[int, ...]:
        """Return the shape of the latents to generate for a batch, (B, C, h, w) or of clips."""
        H, W = batch["size"]
        unit = int(self.scale) * self.space.factor
        if H % unit or W % unit:
            raise ValueError(
                f"images of {H}x{W} were requested; expected multiples of {unit}: choose the "
                "images of data.init_args.val and test accordingly"
            )
        if not self._all_timesteps:
            raise ValueError(
                f"it was trained on timesteps {self.timesteps} and cannot generate from pure "
                "noise: set data.init_args.val to null, or leave out model.init_args.timesteps"
            )
        size = (H // unit, W // unit)
        shape = sample_shape(self.denoiser.channels, batch.get("frames"), size)
        return (len(batch["key"]), *shape)

    # ------------------------------------------------------------------------- checks and weights

    def setup(self, stage: str) -> None:
        """Compare the schedule with that of a trained denoiser.

        Raises:
            ValueError: If it is another, and the denoiser is frozen.
        """
        super().setup(stage)
        base = self.denoiser
        begins = stage == "fit" and self.weights_source is None  # training from the base's weights
        if isinstance(base, UNet2D) and base.initial_source and (base.flags.frozen or begins):
            check_base(base, self.space, self.schedule, self.sampled, base.flags.frozen)

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs, with the sampler's."""
        return super().output_settings | changed(self.sampler)


def min_snr_weights(schedule: Schedule, gamma: float | None) -> Tensor:
    """Return the weights (T,) float32 of a loss on the network's target; ones without a gamma.

    The paper's weight of the clean sample's error is min(SNR, gamma). The error of the noise is
    that of the clean sample times SNR; that of the velocity is times SNR + 1.

    Args:
        schedule: The process, and the prediction type.
        gamma: Above 0.

    Source: Hang et al., 2023 (arXiv 2303.09556), min-SNR-gamma for each target.
    """
    if gamma is None:
        return torch.ones(schedule.steps)
    levels = [schedule.level(t) for t in range(schedule.steps)]
    snr = torch.tensor([(a / s) ** 2 for a, s in levels], dtype=torch.float64)
    # Squared error of each target, relative to that of the clean sample.
    factors = {"sample": torch.ones(()), "epsilon": snr, "v_prediction": snr + 1}
    return (snr.clamp(max=gamma) / factors[schedule.prediction]).float()
