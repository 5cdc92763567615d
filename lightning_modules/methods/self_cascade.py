"""Self-Cascade: adapt a diffusion model to higher resolutions, without tuning or with it.

Guo et al., ECCV 2024 (arXiv 2402.10491). A stage enlarges the clean sample of the previous stage,
adds noise up to timestep K, and denoises it with the same frozen network. The tuned variant adds
features of the smaller sample through small upsamplers, the only trained parts.

z^r   clean sample of stage r, 0 being the base's    phi    fixed resize of it (equation 6)
K     noisiest timestep that stages run, excluded     phi_n  trained upsampler of features
pivot z^(r-1), from which stage r starts             Phi    all of them

Differs from the paper in: the noise of equation 6 has the standard deviation sqrt(1 - abar), as in
its equation 2; equation 6 prints that as the variance. Its level is that of the first timestep run,
which the network gets, not of K. Layers of phi_n with 0.002 M parameters, their places, eta and
guidance are unpublished: they are arguments. So are the sizes of the stages, since the paper does
not fix those in between if the ratio of pixels is no power of four.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn import functional

from files.batch import Batch
from files.method import as_option, changed
from files.numbers import NonNegativeInt, PositiveInt, UnitInterval
from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.library import repeated, resized
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.from_base import FromBase, Predict
from lightning_modules.latents import refuse_compiled
from lightning_modules.networks.attachments import Attachment, Blocks, Skips
from lightning_modules.networks.feature_upsampler import FeatureUpsampler, Places
from lightning_modules.noise import Noise, Size
from lightning_modules.sampling.captions import drop_captions, training_images

PAPER_LEVEL = Schedule().level(699)  # the noisiest one below the paper's K of 700


@dataclass(frozen=True)
class Cascade:
    """The stages of Self-Cascade.

    Args:
        stages: Sizes of the stages, [[1024, 1024], [2048, 2048]]; by default the fewest of one
            factor with at most four times the pixels each. The base stage has as many pixels as
            ``base_size``, and the output's aspect ratio.
        multiple: All sides must be multiples of this, in pixels; the space's factor by default. 64
            avoids odd sides within Stable Diffusion.
        pivot_strength: K as a share of all timesteps. By default the stages begin at the
            signal-to-noise ratio of the paper's K, 700 of the 1000 timesteps of Stable Diffusion's
            schedule.
        pivot_space: Enlarge the pivot as a ``latent``, or as an image (``rgb``), which is decoded
            and encoded again.
        pivot_resize: ``bilinear`` interpolation, as in the paper, or ``bicubic``, as released.
    """

    stages: list[tuple[PositiveInt, PositiveInt]] | None = None
    multiple: PositiveInt | None = None
    pivot_strength: UnitInterval | None = None
    pivot_space: Literal["latent", "rgb"] = "latent"
    pivot_resize: Literal["bilinear", "bicubic"] = "bilinear"


@dataclass(frozen=True)
class Tuning:
    """The trained part of Self-Cascade.

    Args:
        upsampler: Phi: ``Shared`` or ``Full`` of
            ``lightning_modules.networks.feature_upsampler``; ``null`` for the tuning-free variant.
        attach: Add features to the ``skip`` connections (equation 8), or to the outputs of blocks
            (``block_out``), as released.
        places: Numbers of the skip connections, or of the blocks; by default four skip connections,
            or all blocks.
        pivot_features: Read features once at timestep 0 (``cached_t0``), or at each step's own
            timestep (``per_step``), as released.
        adapter_t_min: Timestep below which no features are added; 101 in the release.
        caption_dropout: Share of captions to drop in training, for guidance.
    """

    upsampler: Callable[[Places], FeatureUpsampler] | None = None
    attach: Literal["skip", "block_out"] = "skip"
    places: Sequence[int] | None = None
    pivot_features: Literal["cached_t0", "per_step"] = "cached_t0"
    adapter_t_min: NonNegativeInt = 0
    caption_dropout: UnitInterval = 0.1


def adamw(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """AdamW with weight decay 0.01 and a learning rate of 5e-5, as in the paper and its code."""
    return torch.optim.AdamW(parameters, lr=5e-5, weight_decay=0.01, fused=True)


class SelfCascade(FromBase):
    """A cascade of one frozen diffusion model, tuning-free or tuned.

    ``sampler`` has the timesteps of the base stage; the other stages run those below K. With
    ``size_condition: stage`` an SDXL base gets the size of each stage.

    Args:
        scale: Factor between the sides of the base's images and of the output; set by
            ``data.init_args.scale``.
        cascade: The stages, and the pivot from which each starts.
        tuning: Phi, for the tuned variant.
        optimizer: Makes the optimiser of the upsamplers.

    Raises:
        ValueError: If parts do not fit together.

    Examples:
        >>> from lightning_modules import KLSpace, SelfCascade, UNet2D
        >>> from lightning_modules.backbone.library import Flags
        >>> sd = "stabilityai/stable-diffusion-2-1-base"
        >>> base = UNet2D(sd, flags=Flags(frozen=True))  # doctest: +SKIP
        >>> model = SelfCascade(4, denoiser=base, space=KLSpace(sd))  # doctest: +SKIP
    """

    trained_parts = ("upsampler",)

    def __init__(
        self,
        scale: float,
        *,
        cascade: Cascade = Cascade(),
        tuning: Tuning = Tuning(),
        optimizer: OptimizerCallable = adamw,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, optimizer=optimizer, **kwargs)
        self.cascade = cascade
        self.tuning = tuning
        self.multiple = math.lcm(self.space.factor, cascade.multiple or 1)
        if cascade.pivot_strength is None:
            self.K = self.schedule.first_noisier(PAPER_LEVEL)
        else:
            self.K = round(cascade.pivot_strength * self.schedule.steps)
        self.below_K = [t for t in self.sampled if t < self.K]
        if not self.below_K:
            raise ValueError(
                f"model.init_args.cascade.pivot_strength makes K {self.K}, and no sampled timestep "
                "is below it: set a larger share"
            )
        if tuning.attach == "block_out":
            refuse_compiled(self.denoiser, "model.init_args.tuning.attach block_out")
        attach = Skips if tuning.attach == "skip" else Blocks
        self.attachment: Attachment = attach(self.denoiser.unet, tuning.places)
        embedding = self.denoiser.unet.time_embedding.linear_2.out_features
        places = Places(self.attachment.widths, embedding)
        self.upsampler = None if tuning.upsampler is None else tuning.upsampler(places)
        self.half_outputs = self.upsampler is None  # the frozen base alone
        self._name_weights()

    # ------------------------------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Algorithm 1: the base's own loss in the last stage, by the upsamplers' features.

        Only layers after the upsamplers keep activations.
        """
        upsampler = cast(FeatureUpsampler, self.upsampler)
        z, pivot, sizes = self._last_two_samples(batch)
        t = torch.randint(self.tuning.adapter_t_min, self.K, (len(z),), device=z.device)
        eps = torch.randn_like(z)
        z_t = self.schedule.add_noise(z, eps, t)
        conditions = self._conditions(batch, sizes[-1], sizes[0])
        condition = drop_captions(*conditions, self.tuning.caption_dropout)
        features = self._features(pivot, t, condition)
        raw = self._adapted(upsampler, self.schedule.scale_input(z_t, t), t, condition, features)
        loss = functional.mse_loss(raw, self.schedule.target(z, eps, t))
        self.log("train/loss", loss)
        return loss

    @torch.no_grad()
    def _last_two_samples(self, batch: Batch) -> tuple[Tensor, Tensor, list[Size]]:
        """Return z^r and z^(r-1) of the last stage, from HR and shrunk HR, and all sizes."""
        hr = training_images(batch)
        sizes = self.sizes((hr.shape[-2], hr.shape[-1]))
        if len(sizes) < 2:
            raise ValueError(
                f"images of {sizes[0][0]}x{sizes[0][1]} are as large as the base's, so there is "
                "no stage to train: set data.init_args.scale or crop_size"
            )
        small = resized(hr, sizes[-2], "area")
        return self.space.encode(hr), self.space.encode(small), sizes

    # ------------------------------------------------------------------------------------- sampling

    @torch.no_grad()
    def generate(self, batch: Batch, noise: Noise) -> Tensor:
        """Algorithm 2: all steps at the base's size, then those below K at each larger size."""
        sizes = self.sizes(batch["size"])
        frames = batch.get("frames")
        z: Tensor | None = None
        for stage, size in enumerate(sizes):
            stage_noise = noise.stream(stage)  # independent of the number of later stages
            z = self.stage(z, size, self._conditions(batch, size, sizes[0]), stage_noise, frames)
        return self.space.decode(cast(Tensor, z))

    def sizes(self, target: Size) -> list[Size]:
        """Return the sizes in pixels of all stages, from the base to ``target``.

        Raises:
            ValueError: As in ``cascade_sizes``.
        """
        base = self.trained_size(target)
        return cascade_sizes(base, target, self.cascade.stages, self.multiple)

    def stage(
        self,
        pivot: Tensor | None,
        size: Size,
        conditions: tuple[Condition, Condition],
        noise: Noise,
        frames: int | None = None,
    ) -> Tensor:
        """Run one stage, r >= 1; or, without a pivot, the base model itself.

        Args:
            pivot: z^(r-1), (B, C, h, w).
            size: (H, W) in pixels.
            conditions: With and without the caption.
            noise: Noise of this stage.
            frames: Frames of clips.

        Returns:
            z^r, (B, C, H / factor, W / factor).
        """
        z = self.start(pivot, size, noise, frames)
        if pivot is None:
            return self.denoise(z, self.sampled, conditions, noise)
        return self.denoise(z, self.below_K, conditions, noise, self._predictor(pivot))

    def start(
        self, pivot: Tensor | None, size: Size, noise: Noise, frames: int | None = None
    ) -> Tensor:
        """Equation 6: the enlarged pivot with the noise of the first timestep; or pure noise.

        Args:
            pivot: (B, C, h, w).
            size: (H, W) in pixels.
            noise: Noise, drawn at the new size; it is never resized.
            frames: Frames of clips.
        """
        if pivot is None:
            return self.from_noise(size, noise, frames)
        first = self.schedule.level(self.below_K[0])
        eps = self.eps(size, noise, frames)
        return first.alpha * self.enlarged(pivot, size) + first.sigma * eps

    def enlarged(self, pivot: Tensor, size: Size) -> Tensor:
        """Phi of equation 6: from (B, C, h, w) to the latent of an image of ``size``."""
        resize = self.cascade.pivot_resize
        if self.cascade.pivot_space == "latent":
            return resized(pivot, self.latent_size(size), resize)
        image = self.space.decode(pivot).clamp(0, 1)
        return self.space.encode(resized(image, size, resize).clamp(0, 1))

    def _predictor(self, pivot: Tensor) -> Predict:
        """Return what predicts in a stage: the base, if tuned with the pivot's features."""
        if self.upsampler is None:
            return self.predict
        upsampler = self.upsampler
        features: dict[str, Tensor] | None = None  # `cached_t0` reads them once for all steps

        def predict(timestep: int, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
            nonlocal features
            if timestep < self.tuning.adapter_t_min:
                return self.predict(timestep, z, t, condition)
            if features is None or self.tuning.pivot_features == "per_step":
                # Features depend on the text, so each branch of guidance has its own.
                branches = len(z) // len(pivot)
                features = self._features(torch.cat([pivot] * branches), t, condition)
            scaled = self.schedule.scale_input(z, t)
            return self._adapted(upsampler, scaled, t, condition, features)

        return predict

    @torch.no_grad()
    def _features(self, pivot: Tensor, t: Tensor, condition: Condition) -> dict[str, Tensor]:
        """Return the base's features of the pivot, at each place of the attachment."""
        if self.tuning.pivot_features == "cached_t0":
            t = torch.zeros_like(t)
        features = self.denoiser.features(pivot, t, condition, self.attachment.middle)
        return self.attachment.features(features)

    def _adapted(
        self,
        upsampler: FeatureUpsampler,
        z: Tensor,
        t: Tensor,
        condition: Condition,
        features: dict[str, Tensor],
    ) -> Tensor:
        """Return the base's output with the upsampled features added: equation 8."""
        time = t
        if upsampler.from_network:
            time = time_embedding(self.denoiser.unet, t, condition)
        time = repeated(time, z)  # features of clips are those of their frames
        added = upsampler(features, self.attachment.sizes((z.shape[-2], z.shape[-1])), time)
        with self.attachment.adding(self.denoiser.unet, added) as residuals:
            return self.denoiser(z, t, condition, residuals)

    # ------------------------------------------------------------------------- checks and weights

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs, with K."""
        settings = {"K": self.K, **super().output_settings, **changed(self.cascade)}
        if self.upsampler is not None:
            settings |= changed(self.tuning) | {"upsampler": as_option(self.upsampler)}
            settings["attach"] = f"{self.tuning.attach} {' '.join(self.attachment.widths)}"
        return settings

    @property
    def trained_with(self) -> dict[str, Any]:
        """K, below which upsamplers are trained, and which features they enlarge how."""
        settings = super().trained_with
        settings["K"] = self.K
        if self.upsampler is not None:
            settings["pivot_features"] = self.tuning.pivot_features
            settings["resize"] = self.upsampler.mode
        return settings


@torch.no_grad()
def time_embedding(unet: Any, t: Tensor, condition: Condition) -> Tensor:
    """Return a U-Net's embedding (B, E) of the timestep and, for SDXL, of the sizes.

    Args:
        unet: The U-Net.
        t: (B,) timesteps.
        condition: The condition.
    """
    dtype = next(unet.parameters()).dtype
    embedded: Tensor = unet.time_embedding(unet.time_proj(t).to(dtype))
    if not hasattr(unet, "get_aug_embed"):  # video networks have no other embedding
        return embedded
    # None for Stable Diffusion, which has no size condition.
    sizes: Tensor | None = unet.get_aug_embed(
        emb=embedded,
        encoder_hidden_states=condition.text,
        added_cond_kwargs={"text_embeds": condition.pooled, "time_ids": condition.sizes},
    )
    return embedded if sizes is None else embedded + sizes


def count_stages(base: Size, target: Size) -> int:
    """Return R = ceil(log_4(d_R / d)) of section 3.2; d and d_R are numbers of pixels, not sides.

    Computed in integers, so that no logarithm is rounded.

    Args:
        base: (h, w).
        target: (H, W).

    Returns:
        R; 0 if the target is no larger.
    """
    pixels = base[0] * base[1]
    stages = 0
    while pixels * 4**stages < target[0] * target[1]:
        stages += 1
    return stages


def cascade_sizes(
    base: Size,
    target: Size,
    stages: Sequence[Size] | None = None,
    multiple: int = 8,
) -> list[Size]:
    """Return the sizes from the base stage to the target.

    Args:
        base: (h, w) that the base model was trained for.
        target: (H, W) of the output.
        stages: Sizes of all stages after the base's, with the target last; by default the fewest
            of equal factors.
        multiple: Sides are multiples of this; intermediate ones are rounded to it, halves up.

    Returns:
        R + 1 sizes, the target last; for equal numbers of pixels only the target. The first has the
        target's aspect ratio and as many pixels as ``base``.

    Raises:
        ValueError: If a side is no multiple, or the stages do not rise to the target.
    """
    target = (target[0], target[1])  # on its way to a GPU a tuple becomes a list
    for height, width in (base, target, *(stages or [])):
        if height % multiple or width % multiple:
            raise ValueError(
                f"a size of {height}x{width} is no multiple of {multiple}: choose sizes of "
                "images, data.init_args.scale, model.init_args.base_size and stages accordingly"
            )
    pixels = base[0] * base[1]
    first = _size_of(pixels, target, multiple)
    if first == target:
        return [target]
    sizes = [first]
    if stages is not None:
        sizes += [(height, width) for height, width in stages]
    else:
        count = max(count_stages(base, target), 1)
        factor = (target[0] * target[1] / pixels) ** (1 / count)
        sizes += [_size_of(pixels * factor**stage, target, multiple) for stage in range(1, count)]
        sizes.append(target)
    areas = [height * width for height, width in sizes]
    if sizes[-1] != target or areas != sorted(areas):
        raise ValueError(
            f"model.init_args.cascade.stages makes the sizes {sizes}; expected sizes that rise "
            f"from the base's to the output's {target}, the last one"
        )
    return sizes


def _size_of(pixels: float, target: Size, multiple: int) -> Size:
    """Return a size with so many pixels and the target's aspect ratio, at most the target."""
    factor = math.sqrt(pixels / (target[0] * target[1]))
    sides = []
    for side in target:
        units = max(math.floor(side * factor / multiple + 0.5), 1)
        sides.append(min(units * multiple, side))
    return sides[0], sides[1]
