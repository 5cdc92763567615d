"""FromBase: what samples larger images than its diffusion model, the base, was trained on.

Self-Cascade and the methods that it is compared with (Guo et al., ECCV 2024; arXiv 2402.10491,
tables 1 to 3) differ in where sampling starts, in what is trained, and in what changes in the
network while it runs. Shared, and here: the base's parts, its conditions, the initial noise and
the loop over timesteps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from files.batch import Batch
from files.method import changed
from files.numbers import PositiveInt
from lightning_modules.backbone.condition import Condition, TextEncoder, guided
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.backbone.space import PixelSpace, Space
from lightning_modules.base import Generator
from lightning_modules.latents import InLatents, check_base
from lightning_modules.noise import Noise, Size
from lightning_modules.sampling.captions import (
    check_guidance,
    encode_captions,
    sample_shape,
    size_ids,
)
from lightning_modules.sampling.solvers import Sampler

SizeCondition = Literal["stage", "base"]
DDIM = Sampler()  # Stable Diffusion's
# From (timestep, z, t, condition) to the base's raw output, or its replacement.
Predict = Callable[[int, Tensor, Tensor, Condition], Tensor]


def base_of(target: Size, scale: float) -> Size:
    """Return ``target`` divided by ``scale`` along both sides.

    Raises:
        ValueError: If the result is not whole.
    """
    height, width = (round(side / scale) for side in target)
    if (round(height * scale), round(width * scale)) != tuple(target):
        raise ValueError(
            f"images of {target[0]}x{target[1]} are no multiple of data.init_args.scale "
            f"{scale:g}: choose other sizes, or set model.init_args.base_size"
        )
    return height, width


class FromBase(InLatents, Generator):
    """A generator on a trained diffusion model, the base.

    Args:
        scale: Factor between the sides of the base's images and of the output; set by
            ``data.init_args.scale``.
        denoiser: The base.
        space: Its latents; pixels by default.
        denoiser_weights: Weights of a base that was trained here: a run of ``Diffusion``, or a
            file. Not for a base that is set by its folder.
        schedule: The base's process; Stable Diffusion's by default.
        base_size: Side, or height and width, that the base was trained for, in pixels; by default
            the output's divided by ``scale``.
        size_condition: SDXL's size condition: original and target sizes are those of the current
            ``stage``, or the ``base``'s; without cropping.
        encoder: Encodes captions; without it captions are ignored.
        sampler: Timesteps, solver and guidance.

    Attributes:
        sampled: All timesteps of the sampler, noisiest first.

    Raises:
        ValueError: If parts do not fit together.
    """

    trained_parts: tuple[str, ...] | None = ()
    part_files: ClassVar[Mapping[str, str]] = {
        **InLatents.part_files,
        "denoiser_weights": "load_denoiser",
    }
    base_frozen: ClassVar[bool] = True  # False for methods that train the base itself

    def __init__(
        self,
        scale: float,
        denoiser: UNet2D,
        space: Space | None = None,
        denoiser_weights: str | None = None,
        schedule: Schedule | None = None,
        base_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None,
        size_condition: SizeCondition | None = None,
        encoder: TextEncoder | None = None,
        sampler: Sampler = DDIM,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        self.denoiser = denoiser
        self.denoiser_weights = denoiser_weights
        self.space = space or PixelSpace()
        self.schedule = schedule or Schedule()
        self.base_size = (base_size, base_size) if isinstance(base_size, int) else base_size
        self.size_condition = size_condition
        self.encoder = encoder
        self.sampler = sampler
        self.sampled = self.sampler.timesteps(self.schedule.steps)
        check_guidance(encoder, sampler.guidance)

    # ------------------------------------------------------------------------------------- sizes

    def trained_size(self, target: Size) -> Size:
        """Return the base's training size (H, W) in pixels, for an output of size ``target``.

        Raises:
            ValueError: If it follows from ``scale``, and the target is no multiple of that.
        """
        return self.base_size or base_of(target, self.scale)

    def latent_size(self, size: Size) -> Size:
        """Return (h, w) of a latent for (H, W) in pixels."""
        return size[0] // self.space.factor, size[1] // self.space.factor

    # ------------------------------------------------------------------------------------- sampling

    def eps(self, size: Size, noise: Noise, frames: int | None = None) -> Tensor:
        """Return normal noise (B, C, h, w), drawn at this size; noise is never resized.

        Args:
            size: (H, W) in pixels.
            noise: Noise of B samples.
            frames: Frames of a clip, whose noise is one field (C, frames, h, w).
        """
        shape = sample_shape(self.denoiser.channels, frames, self.latent_size(size))
        return noise.normal((len(noise.seeds), *shape))

    def from_noise(self, size: Size, noise: Noise, frames: int | None = None) -> Tensor:
        """Return the pure noise that sampling starts from. Arguments and shape as in ``eps``."""
        # Data of variance 1 plus the noise of the first step.
        first = self.schedule.level(self.sampled[0])
        return self.eps(size, noise, frames) * (first.alpha**2 + first.sigma**2) ** 0.5

    @torch.no_grad()
    def generate(self, batch: Batch, noise: Noise) -> Tensor:
        """Run all steps from noise of the output's size.

        Raises:
            ValueError: If a side is no multiple of ``scale``.
        """
        size = (batch["size"][0], batch["size"][1])
        z = self.direct(batch, size, self.trained_size(size), noise)
        return self.space.decode(z)

    def direct(self, batch: Batch, size: Size, base: Size, noise: Noise) -> Tensor:
        """Run all steps from noise of this size, and return the clean sample.

        Args:
            batch: Batch, with captions if there is an encoder.
            size: (H, W) in pixels.
            base: Size that the base was trained for.
            noise: Noise of B samples.

        Returns:
            (B, C, h, w).
        """
        z = self.from_noise(size, noise, batch.get("frames"))
        conditions = self._conditions(batch, size, base)
        return self.denoise(z, self.sampled, conditions, noise)

    def denoise(
        self,
        z: Tensor,
        timesteps: Sequence[int],
        conditions: tuple[Condition, Condition],
        noise: Noise,
        predict: Predict | None = None,
    ) -> Tensor:
        """Run these timesteps, and return the clean sample.

        Args:
            z: (B, C, h, w) at the first timestep.
            timesteps: Part of ``sampled``, noisiest first.
            conditions: With and without the caption.
            noise: Noise for samplers that add some.
            predict: Predicts the raw output; by default the base.

        Returns:
            (B, C, h, w).
        """
        predict = predict or self.predict

        def clean(z: Tensor, timestep: int) -> Tensor:
            """Return the clean sample that the network predicts, for the sampler."""
            raw = self.guided(partial(predict, timestep), z, timestep, conditions)
            return self.schedule.to_x0(raw, z, timestep)

        return self.sampler.denoise(z, timesteps, clean, self.schedule, noise)

    def guided(
        self,
        predict: Callable[[Tensor, Tensor, Condition], Tensor],
        z: Tensor,
        timestep: int,
        conditions: tuple[Condition, Condition],
    ) -> Tensor:
        """Return the raw output with classifier-free guidance.

        Args:
            predict: Predicts the raw output from z, t (B,) and a condition.
            z: (B, C, h, w) at the timestep.
            timestep: The timestep.
            conditions: With and without the caption.
        """
        t = torch.full((len(z),), timestep, device=z.device)
        return guided(predict, z, t, *conditions, self.sampler.guidance)

    def predict(self, timestep: int, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the base's raw output.

        Args:
            timestep: The timestep.
            z: (B, C, h, w) at ``timestep``.
            t: (B,), all ``timestep``.
            condition: The condition.
        """
        return self.denoiser(self.schedule.scale_input(z, t), t, condition)

    def _conditions(self, batch: Batch, size: Size, base: Size) -> tuple[Condition, Condition]:
        """Return the conditions of a batch with and without captions.

        Args:
            batch: Batch, with captions if there is an encoder.
            size: Current (H, W) in pixels.
            base: (H, W) that the base was trained for.
        """
        sizes = None
        if self.size_condition is not None:
            conditioned_on = size if self.size_condition == "stage" else base
            sizes = size_ids(conditioned_on, len(batch["key"]), self.device)
        return encode_captions(batch, self.denoiser, self.encoder, sizes)

    # ------------------------------------------------------------------------- checks and weights

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs of the same weights; they label results."""
        settings = super().output_settings
        settings["steps"] = self.sampler.steps
        settings |= changed(self.sampler)
        if self.base_size is not None:
            settings["base_size"] = "x".join(map(str, self.base_size))
        if self.size_condition is not None:
            settings["size_condition"] = self.size_condition
        return settings

    def _name_weights(self) -> None:
        """Label outputs by the base's weights if nothing is trained."""
        if not self.trains:
            self.weights_source = self.denoiser.source or None

    def load_denoiser(self, path: Path) -> None:
        """Load the base.

        Args:
            path: A run that trained it, or a file.
        """
        self.denoiser.load(path)
        self._name_weights()

    def setup(self, stage: str) -> None:
        """Raise if a frozen part has no trained weights, or another than the base was trained with.

        Raises:
            ValueError: If the base or the autoencoder has random weights, or the base's run had
                another autoencoder, schedule or range of timesteps.
        """
        super().setup(stage)
        # If the base itself was trained, a test loads all weights from the run's checkpoint, and a
        # fit may start from those of another run.
        begins_with_base = stage == "fit" and self.weights_source is None
        if self.base_frozen or begins_with_base:
            check_base(self.denoiser, self.space, self.schedule, self.sampled, self.base_frozen)
