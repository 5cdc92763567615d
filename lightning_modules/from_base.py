"""FromBase: the base of controls that sample larger than their diffusion model was trained.

Self-Cascade and the methods that it is compared with (Guo et al., ECCV 2024; arXiv 2402.10491,
tables 1 to 3) differ in where sampling starts, in what is trained, and in what changes in the
network while it runs. Shared, and here: the base's parts, its conditions, the initial noise and
the loop over timesteps.

Guo et al., ECCV 2024 (arXiv 2402.10491), section 3.2: R = ceil(log_4(d_R / d)), d and d_R being
numbers of pixels, not sides. The paper does not fix the sizes in between if the ratio is no power
of four: here factors are equal, or sizes are an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from lightning_modules.controls.scalecrafter import NetworkPatch, Step
from lightning_modules.latents import InLatents, check_base
from lightning_modules.noise import Noise, Size
from lightning_modules.sampling.captions import (
    check_guidance,
    encode_captions,
    frames_of,
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
        patch: Changes the network while it runs: ``lightning_modules.AttnSF`` or
            ``lightning_modules.ScaleCrafter``; none by default.

    Attributes:
        sampled: All timesteps of the sampler, noisiest first.

    Raises:
        ValueError: If parts do not fit together.
    """

    trained_parts: tuple[str, ...] | None = ()
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
        patch: NetworkPatch | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        self.denoiser, self.space, self.encoder = denoiser, space or PixelSpace(), encoder
        self.denoiser_weights, self.schedule = denoiser_weights, schedule or Schedule()
        self.base_size = (base_size, base_size) if isinstance(base_size, int) else base_size
        self.size_condition, self.sampler, self.patch = size_condition, sampler, patch
        self.sampled = self.sampler.timesteps(self.schedule.steps)
        check_guidance(encoder, sampler.guidance)
        self._check_flags()
        if patch is not None:
            patch.check(denoiser)

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
            frames: Frames of a clip, which has one field.
        """
        shape = sample_shape(self.denoiser.channels, frames, self.latent_size(size))
        return noise.normal((len(noise.seeds), *shape))

    def from_noise(self, size: Size, noise: Noise, frames: int | None = None) -> Tensor:
        """Return the pure noise that sampling starts from. Arguments and shape as in ``eps``."""
        first = self.schedule.level(self.sampled[0])
        return self.eps(size, noise, frames) * (first.alpha**2 + first.sigma**2) ** 0.5

    @torch.no_grad()
    def generate(self, batch: Batch, noise: Noise) -> Tensor:
        """Run all steps from noise of the output's size.

        Raises:
            ValueError: If a side is no multiple of the space's factor, or of ``scale``.
        """
        size = (batch["size"][0], batch["size"][1])
        return self.space.decode(self.direct(batch, size, self.trained_size(size), noise))

    def direct(self, batch: Batch, size: Size, base: Size, noise: Noise) -> Tensor:
        """Run all steps from noise of this size, and return the clean sample.

        Args:
            batch: Batch, with captions if there is an encoder.
            size: (H, W) in pixels.
            base: Size that the base was trained for.
            noise: Noise of B samples.

        Returns:
            (B, C, h, w).

        Raises:
            ValueError: If a side is no multiple of the space's factor.
        """
        factor = self.space.factor
        if size[0] % factor or size[1] % factor:
            raise ValueError(
                f"images of {size[0]}x{size[1]} were requested; expected multiples of {factor}: "
                "choose sizes of images accordingly"
            )
        z = self.from_noise(size, noise, frames_of(batch, self.denoiser))
        conditions = self._conditions(batch, size, base)
        return self.denoise(z, self.sampled, conditions, noise, base=base)

    def denoise(
        self,
        z: Tensor,
        timesteps: Sequence[int],
        conditions: tuple[Condition, Condition],
        noise: Noise,
        predict: Predict | None = None,
        base: Size | None = None,
    ) -> Tensor:
        """Run these timesteps, and return the clean sample.

        Args:
            z: (B, C, h, w) at the first timestep.
            timesteps: Part of ``sampled``, noisiest first.
            conditions: With and without the caption.
            noise: Noise for samplers that add some.
            predict: Predicts the raw output; by default the base.
            base: Size in pixels that the base was trained for, to apply the patch.

        Returns:
            (B, C, h, w).
        """
        predict = predict or self.predict

        def clean(z: Tensor, now: int) -> Tensor:
            t = torch.full((len(z),), now, device=z.device)
            call, strength = partial(predict, now), self.sampler.guidance
            if self.patch is None or base is None:
                raw = guided(call, z, t, *conditions, strength)
            else:
                size = (z.shape[-2], z.shape[-1])
                step = Step(
                    self.sampled.index(now), len(self.sampled), size, self.latent_size(base)
                )
                raw = self.patch.guided(self.denoiser, step, call, z, t, conditions, strength)
            return self.schedule.to_x0(raw, z, now)

        return self.sampler.denoise(z, timesteps, clean, self.schedule, noise)

    def predict(self, now: int, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the base's raw output.

        Args:
            now: The timestep.
            z: (B, C, h, w) at ``now``.
            t: (B,), all ``now``.
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
            shown = size if self.size_condition == "stage" else base
            sizes = size_ids(shown, len(batch["key"]), self.device)
        return encode_captions(batch, self.denoiser, self.encoder, sizes)

    # ------------------------------------------------------------------------- checks and weights

    def _check_flags(self) -> None:
        if self.base_frozen and not self.denoiser.flags.frozen:
            raise ValueError(
                "the base is never trained here: set frozen in "
                "model.init_args.denoiser.init_args.flags to true"
            )
        embeds = self.denoiser.unet.config.get("addition_embed_type") == "text_time"
        if embeds != (self.size_condition is not None):
            raise ValueError(
                f"model.init_args.size_condition is {self.size_condition}: set it to stage or base "
                "for SDXL, and to null for others"
            )

    @property
    def trains(self) -> bool:
        """Whether something is trained, so that outputs require its weights."""
        return any(getattr(self, name) is not None for name in self.trained_parts or ())

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs of the same weights; they label results."""
        steps = {"steps": self.sampler.steps, **changed(self.sampler)}
        settings = super().output_settings | steps
        if self.base_size is not None:
            settings["base_size"] = "x".join(map(str, self.base_size))
        if self.size_condition is not None:
            settings["size_condition"] = self.size_condition
        return settings if self.patch is None else settings | self.patch.options

    @property
    def needs_weights(self) -> bool:
        """Whether weights are missing; the base's are enough if nothing is trained."""
        return self.trains and super().needs_weights

    def _name_weights(self) -> None:
        # Called again once the base is loaded.
        if not self.trains:
            self.weights_source = self.denoiser.source or None

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load the autoencoder and the base.

        Raises:
            ValueError: If the base does not fit.
        """
        super().load_parts(find)
        if self.denoiser_weights is not None:
            self.denoiser.load(find("denoiser_weights", self.denoiser_weights))
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
        frozen, begins = self.base_frozen, stage == "fit" and self.weights_source is None
        if frozen or begins:
            check_base(self.denoiser, self.space, self.schedule, self.sampled, frozen)
