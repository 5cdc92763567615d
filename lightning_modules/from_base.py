"""What all generators share that stand on a diffusion model of a smaller size: Self-Cascade's.

The method that adapts the base, and what it is compared with (Guo et al., ECCV 2024; arXiv
2402.10491, tables 1 to 3), differ in where sampling starts, in what is trained and in what of the
network is changed while it runs. The rest is here: the base's parts, what it is told, the noise
that sampling starts from, and the way from there down the timesteps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from lightning_modules.backbone.condition import Condition, TextEncoder, guided
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.backbone.space import PixelSpace, Space
from lightning_modules.base import Generator
from lightning_modules.captions import check_captions, size_ids, told
from lightning_modules.clips import frames_of, sample_shape
from lightning_modules.frozen_base import check_base, check_choice, check_trained
from lightning_modules.ladder import base_of
from lightning_modules.network_patch import NetworkPatch, Step
from lightning_modules.noise import Noise
from lightning_modules.sampling import Sampler
from lightning_modules.stages import Size

if TYPE_CHECKING:
    from datamodules.base import Batch

SizeCondition = Literal["stage", "base"]
# The base's raw output, or what stands for it, of (timestep, z, t, known).
Predict = Callable[[int, Tensor, Tensor, Condition], Tensor]


class FromBase(Generator):
    """A generator on a trained diffusion model, the base.

    Args:
        scale: Factor between the sides of the base's images and of the output; set by
            ``data.init_args.scale``.
        denoiser: The base.
        space: Its latents; pixels by default.
        denoiser_weights: Weights of a base that was trained here: a run of ``Diffusion``, or a
            file. Not for one that is named by its folder.
        schedule: The base's process; Stable Diffusion's by default.
        base_size: Side, or height and width, that the base was trained for, in pixels; by default
            the output's divided by ``scale``.
        size_condition: What an SDXL base is told of sizes: that original and target are those that
            are made (``stage``), or the ``base``'s; nothing is cropped.
        encoder: Makes embeddings of captions; without it captions are not looked at.
        guidance: Strength of classifier-free guidance; 1 for none.
        sampler: Timesteps and solver.
        clamp: Keep predicted clean samples within this distance of 0; 1 for pixels, ``null`` for
            latents, which know no bound.
        patch: Changes the network while it runs: ``AttnSF`` of ``lightning_modules.attn_sf`` or
            ``ScaleCrafter`` of ``lightning_modules.scalecrafter``; none by default.

    Attributes:
        sampled: All timesteps of the sampler, from the noisiest one down.

    Raises:
        ValueError: A setting is out of range or unknown, or parts do not fit one another.
    """

    base_frozen: ClassVar[bool] = True  # false for a method that trains the base itself

    def __init__(
        self,
        scale: float,
        denoiser: UNet2D,
        space: Space | None = None,
        denoiser_weights: str | None = None,
        schedule: Schedule | None = None,
        base_size: int | tuple[int, int] | None = None,
        size_condition: SizeCondition | None = None,
        encoder: TextEncoder | None = None,
        guidance: float = 1.0,
        sampler: Sampler | None = None,
        clamp: float | None = None,
        patch: NetworkPatch | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        self.denoiser, self.space, self.encoder = denoiser, space or PixelSpace(), encoder
        self.denoiser_weights, self.schedule = denoiser_weights, schedule or Schedule()
        self.base_size = (base_size, base_size) if isinstance(base_size, int) else base_size
        self.size_condition, self.guidance, self.clamp = size_condition, guidance, clamp
        self.sampler, self.patch = sampler or Sampler(), patch
        self.sampled = self.sampler.timesteps(self.schedule.steps)
        check_base(denoiser, self.space, self.base_frozen)
        check_choice("size_condition", size_condition or "stage", SizeCondition)
        check_captions(encoder, guidance)
        self._check_sizes_are_told()
        if patch is not None:
            patch.check(denoiser, guidance)

    # ------------------------------------------------------------------------------------- sizes

    def trained_size(self, target: Size) -> Size:
        """(H, W) in pixels that the base was trained for, where ``target`` is asked for.

        Raises:
            ValueError: It follows from ``scale`` alone, and the target is no multiple of that.
        """
        return self.base_size or base_of(target, self.scale)

    def latent_size(self, size: Size) -> Size:
        """(h, w) of a latent for (H, W) in pixels."""
        return size[0] // self.space.factor, size[1] // self.space.factor

    def latent_shape(self, size: Size, frames: int | None = None) -> tuple[int, ...]:
        """Of one sample's z: (C, h, w), or (C, F, h, w) of a clip, for (H, W) in pixels."""
        return sample_shape(self.denoiser.channels, frames, self.latent_size(size))

    # ------------------------------------------------------------------------------------- sampling

    def eps(self, size: Size, noise: Noise, frames: int | None = None) -> Tensor:
        """Normal noise, (B, C, h, w), drawn at this size; noise is never resized.

        Args:
            size: (H, W) in pixels.
            noise: Of B samples.
            frames: Of a clip, which has one field.
        """
        return noise.normal((len(noise.seeds), *self.latent_shape(size, frames)))

    def from_noise(self, size: Size, noise: Noise, frames: int | None = None) -> Tensor:
        """Where sampling of all steps starts: noise alone. Args as ``eps``."""
        first = self.schedule.level(self.sampled[0])
        return self.eps(size, noise, frames) * (first.alpha**2 + first.sigma**2) ** 0.5

    def direct(self, batch: Batch, size: Size, base: Size, noise: Noise) -> Tensor:
        """The clean sample of all steps, from noise of this size.

        Args:
            batch: With captions, where there is an encoder.
            size: (H, W) in pixels.
            base: The size that the base was trained for.
            noise: Of B samples.

        Returns:
            (B, C, h, w).

        Raises:
            ValueError: A side is no multiple of the space's factor.
        """
        factor = self.space.factor
        if size[0] % factor or size[1] % factor:
            raise ValueError(
                f"images of {size[0]}x{size[1]} were asked for; expected multiples of {factor}: "
                "choose sizes of images accordingly"
            )
        z = self.from_noise(size, noise, frames_of(batch, self.denoiser))
        known = self._told(batch, size, base)
        return self.denoise(z, self.sampled, known, noise, base=base)

    def denoise(
        self,
        z: Tensor,
        timesteps: Sequence[int],
        known: tuple[Condition, Condition],
        noise: Noise,
        predict: Predict | None = None,
        base: Size | None = None,
    ) -> Tensor:
        """The clean sample at the end of these timesteps.

        Args:
            z: (B, C, h, w) at the first of them.
            timesteps: Of ``sampled``, from the noisiest one down.
            known: What the denoiser is told, and what in the other branch of guidance.
            noise: Drawn from by samplers that add some.
            predict: What is called; the base as it is by default.
            base: The size in pixels that the base was trained for, where the patch is to act.

        Returns:
            (B, C, h, w).
        """
        predict = predict or self.predict

        def clean(z: Tensor, now: int) -> Tensor:
            t = torch.full((len(z),), now, device=z.device)
            if self.patch is None or base is None:
                raw = guided(partial(predict, now), z, t, *known, self.guidance)
            else:
                size = (z.shape[-2], z.shape[-1])
                # Not its index: `heun` also calls at the timestep where sampling ends.
                number = sum(t > now for t in self.sampled)
                step = Step(number, len(self.sampled), size, self.latent_size(base))
                call = partial(predict, now)
                raw = self.patch.guided(self.denoiser, step, call, z, t, known, self.guidance)
            x0 = self.schedule.to_x0(raw, z, now)
            return x0 if self.clamp is None else x0.clamp(-self.clamp, self.clamp)

        return self.sampler.denoise(z, timesteps, clean, self.schedule, noise)

    def predict(self, now: int, z: Tensor, t: Tensor, known: Condition) -> Tensor:
        """The base's raw output.

        Args:
            now: The timestep.
            z: (B, C, h, w) at it.
            t: (B,), of it alone.
            known: What the denoiser is told.
        """
        raw: Tensor = self.denoiser(self.schedule.scale_input(z, t), t, known)
        return raw

    def _told(self, batch: Batch, size: Size, base: Size) -> tuple[Condition, Condition]:
        """What the denoiser is told of a batch, and what in the other branch of guidance.

        Args:
            batch: With captions, where there is an encoder.
            size: (H, W) in pixels of what is made now.
            base: That of what the base makes by itself.
        """
        sizes = None
        if self.size_condition is not None:
            shown = size if self.size_condition == "stage" else base
            sizes = size_ids(shown, len(batch["key"]), self.device)
        return told(batch, self.denoiser, self.encoder, sizes)

    # ------------------------------------------------------------------------- checks and weights

    def _check_sizes_are_told(self) -> None:
        embeds = self.denoiser.unet.config.get("addition_embed_type") == "text_time"
        if embeds != (self.size_condition is not None):
            raise ValueError(
                f"model.init_args.size_condition is {self.size_condition}, and the denoiser is "
                f"{'not ' if self.size_condition else ''}one that is told sizes: set it to stage "
                "or base for SDXL, and to null for others"
            )

    @property
    def trains(self) -> bool:
        """Whether there is something to train, without whose weights no image is made."""
        return False

    @property
    def options(self) -> dict[str, str | int | float]:
        """What of the same weights makes other outputs; results are told apart by it."""
        own, usual = self._settings()
        apart = {k: v for k, v in own.items() if k not in usual or v != usual[k]}
        return {"steps": self.sampler.steps, **apart}

    def _settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings that change images, and what is usual; a method adds its own to both."""
        own = {field.name: getattr(self.sampler, field.name) for field in fields(Sampler)}
        usual = {field.name: field.default for field in fields(Sampler)}
        own |= {"guidance": self.guidance, "clamp": self.clamp}
        own["base_size"] = None if self.base_size is None else "x".join(map(str, self.base_size))
        own["size_condition"] = self.size_condition
        own |= {} if self.patch is None else self.patch.options
        nothing = dict.fromkeys(("clamp", "base_size", "size_condition"))
        return own, {**usual, "guidance": 1.0, **nothing}

    @property
    def needs_weights(self) -> bool:
        """As ``ImageModel``'s; where nothing is trained the base's weights are enough."""
        return self.trains and super().needs_weights

    def _name_weights(self) -> None:
        # What is in the model from the start; called again once the base is loaded.
        if not self.trains:
            self.weights_source = self.denoiser.source or None

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load the base. Args as ``ImageModel.load_parts``."""
        if self.denoiser_weights is not None:
            self.denoiser.load(find("denoiser_weights", self.denoiser_weights))
            self._name_weights()

    def setup(self, stage: str) -> None:
        """See that nothing is computed with random weights.

        Raises:
            ValueError: The base or the autoencoder has random weights.
        """
        super().setup(stage)
        # Of a base that was trained on, a test finds all weights in the run's own checkpoint, and a
        # fit may start from those of another one.
        begins = stage == "fit" and self.weights_source is None
        check_trained(self.denoiser if self.base_frozen or begins else None, self.space)
