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
guidance are unpublished: they are arguments.

`Skips` is equation 8 of the paper, through diffusers' own arguments. `Blocks` is the released code:
outputs of the down blocks and of the middle block.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn import functional

from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.denoiser import Features, Residuals, UNet2D
from lightning_modules.backbone.library import repeated, resized
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.controls.larger import Aspect, FromBase, Predict, Rule, cascade_sizes
from lightning_modules.latents import check_choice
from lightning_modules.networks.feature_upsampler import FeatureUpsampler, Places
from lightning_modules.noise import Noise, Size
from lightning_modules.sampling.captions import (
    check_captions,
    drop_captions,
    frames_of,
    training_images,
)

if TYPE_CHECKING:
    from files.batch import Batch

Attach = Literal["skip", "block_out"]
LEAST = 4  # places in the paper
PAPER = Schedule().level(699)  # the noisiest one below the paper's K of 700


class Attachment(ABC):
    """Base class of the kinds of places.

    Args:
        unet: A ``UNet2DConditionModel``.
        numbers: Numbers of the places; the paper's, or the release's, by default.

    Raises:
        ValueError: If a number is unknown, or there is none.
    """

    middle = False  # whether the middle block is a place, so that the pivot must pass it

    def __init__(self, unet: Any, numbers: Sequence[int] | None) -> None:
        self.skips = skip_shapes(unet)
        count = self.count(unet)
        self.numbers = list(self.default(unet) if numbers is None else numbers)
        wrong = [n for n in self.numbers if not 0 <= n < count]
        if wrong or not self.numbers or len(set(self.numbers)) < len(self.numbers):
            raise ValueError(
                f"model.init_args.places is {self.numbers}; expected different numbers from 0 to "
                f"{count - 1}, the places of this U-Net"
            )
        self._odd_up = unet.config.downsample_padding == 1

    @abstractmethod
    def count(self, unet: Any) -> int:
        """Return the number of places."""

    @abstractmethod
    def default(self, unet: Any) -> list[int]:
        """Return the default places."""

    @abstractmethod
    def name(self, number: int) -> str:
        """Return the name of a place in checkpoints."""

    @abstractmethod
    def skip_of(self, number: int) -> int:
        """Return the number of the skip connection with the place's width and size."""

    @abstractmethod
    def features(self, read: Features) -> dict[str, Tensor]:
        """Return the features of a U-Net's down path by place, in the shapes of ``Features``."""

    @abstractmethod
    def predict(
        self,
        denoiser: UNet2D,
        z: Tensor,
        t: Tensor,
        condition: Condition,
        added: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the denoiser's raw output, with ``added`` at the places.

        Args:
            denoiser: The denoiser.
            z: As in ``Denoiser.forward``.
            t: As in ``Denoiser.forward``.
            condition: As in ``Denoiser.forward``.
            added: By place, in the shapes of ``features``.
        """

    @property
    def widths(self) -> dict[str, int]:
        """Number of channels at each place."""
        return {self.name(n): self.skips[self.skip_of(n)][0] for n in self.numbers}

    def sizes(self, size: Size) -> dict[str, Size]:
        """Return (H, W) at each place for a latent of this size."""
        return {
            self.name(n): self._halved(size, self.skips[self.skip_of(n)][1]) for n in self.numbers
        }

    def _halved(self, size: Size, times: int) -> Size:
        # Odd sides are rounded as the U-Net pads them.
        height, width = size
        for _ in range(times):
            height, width = (height + self._odd_up) // 2, (width + self._odd_up) // 2
        return height, width


class Skips(Attachment):
    """Skip connections, numbered as in diffusers: 0 is the first convolution's.

    By default the last one of each resolution and, if those are fewer than four, the ones before
    the deepest: 2, 5, 8, 11 for Stable Diffusion, 2, 5, 7, 8 for SDXL.
    """

    def count(self, unet: Any) -> int:
        """As ``Attachment.count``."""
        return len(self.skips)

    def default(self, unet: Any) -> list[int]:
        """As ``Attachment.default``."""
        last = {halved: n for n, (_, halved) in enumerate(self.skips)}
        others = [n for n in reversed(range(len(self.skips))) if n not in last.values()]
        return sorted([*last.values(), *others[: max(LEAST - len(last), 0)]])

    def name(self, number: int) -> str:
        """As ``Attachment.name``."""
        return f"skip{number}"

    def skip_of(self, number: int) -> int:
        """As ``Attachment.skip_of``."""
        return number

    def features(self, read: Features) -> dict[str, Tensor]:
        """As ``Attachment.features``."""
        return {self.name(n): read.skips[n] for n in self.numbers}

    def predict(
        self,
        denoiser: UNet2D,
        z: Tensor,
        t: Tensor,
        condition: Condition,
        added: Mapping[str, Tensor],
    ) -> Tensor:
        """As ``Attachment.predict``."""
        residuals = Residuals({n: added[self.name(n)] for n in self.numbers})
        return denoiser(z, t, condition, residuals)


class Blocks(Attachment):
    """Outputs of the down blocks and, as the last number, of the middle block.

    Skip connections stay unchanged. By default all blocks.
    """

    def __init__(self, unet: Any, numbers: Sequence[int] | None) -> None:
        self._blocks = len(unet.down_blocks)
        super().__init__(unet, numbers)
        self.middle = self._blocks in self.numbers
        self._ends = _ends(unet)

    def count(self, unet: Any) -> int:
        """As ``Attachment.count``."""
        return self._blocks + 1

    def default(self, unet: Any) -> list[int]:
        """As ``Attachment.default``."""
        return list(range(self._blocks + 1))

    def name(self, number: int) -> str:
        """As ``Attachment.name``."""
        return "middle" if number == self._blocks else f"block{number}"

    def skip_of(self, number: int) -> int:
        """As ``Attachment.skip_of``."""
        return self._ends[min(number, self._blocks - 1)]

    def features(self, read: Features) -> dict[str, Tensor]:
        """As ``Attachment.features``."""
        found = {self.name(n): read.skips[self.skip_of(n)] for n in self.numbers}
        return found if read.middle is None else found | {"middle": read.middle}

    def predict(
        self,
        denoiser: UNet2D,
        z: Tensor,
        t: Tensor,
        condition: Condition,
        added: Mapping[str, Tensor],
    ) -> Tensor:
        """As ``Attachment.predict``."""
        residuals = Residuals(middle=added.get("middle"))
        numbers = [n for n in self.numbers if n < self._blocks]
        with _added(denoiser.unet, {n: added[self.name(n)] for n in numbers}):
            return denoiser(z, t, condition, residuals)


def attachment(attach: Attach, denoiser: UNet2D, numbers: Sequence[int] | None) -> Attachment:
    """Return the places by name.

    Args:
        attach: ``skip`` or ``block_out``.
        denoiser: The denoiser.
        numbers: Numbers of the places.

    Raises:
        ValueError: If a name or number is unknown, or for block outputs of a compiled network.
    """
    if attach == "skip":
        return Skips(denoiser.unet, numbers)
    if attach != "block_out":
        raise ValueError(f"model.init_args.attach is {attach!r}; expected skip or block_out")
    if denoiser.flags.compile:
        raise ValueError(
            "model.init_args.attach is block_out, which has no effect on a compiled network: set "
            "compile in model.init_args.denoiser.init_args.flags to false"
        )
    return Blocks(denoiser.unet, numbers)


def skip_shapes(unet: Any) -> list[tuple[int, int]]:
    """Return (channels, number of halvings) of each of a U-Net's skip connections."""
    shapes, halved = [(unet.conv_in.out_channels, 0)], 0
    for block in unet.down_blocks:
        shapes += [(resnet.out_channels, halved) for resnet in block.resnets]
        for downsampler in block.downsamplers or ():
            halved += 1
            shapes.append((downsampler.out_channels, halved))
    return shapes


@torch.no_grad()
def time_embedding(unet: Any, t: Tensor, condition: Condition) -> Tensor:
    """Return a U-Net's embedding (B, E) of the timestep and, for SDXL, of the sizes.

    Args:
        unet: The U-Net.
        t: (B,) timesteps.
        condition: The condition; ``noise_level`` is ignored.
    """
    dtype = next(unet.parameters()).dtype
    embedded: Tensor = unet.time_embedding(unet.time_proj(t).to(dtype))
    if not hasattr(unet, "get_aug_embed"):  # video networks have no other embedding
        return embedded
    also = {"text_embeds": condition.pooled, "time_ids": condition.sizes}
    text = {"encoder_hidden_states": condition.text, "added_cond_kwargs": also}
    more: Tensor | None = unet.get_aug_embed(emb=embedded, **text)
    return embedded if more is None else embedded + more


def _ends(unet: Any) -> list[int]:
    """Return the number of the last skip connection of each down block, which is its output."""
    ends, last = [], 0
    for block in unet.down_blocks:
        last += len(block.resnets) + len(block.downsamplers or ())
        ends.append(last)
    return ends


@contextmanager
def _added(unet: Any, added: Mapping[int, Tensor]) -> Iterator[None]:
    def adding(x: Tensor) -> Any:
        return lambda _, __, output: (output[0] + x.to(output[0].dtype), *output[1:])

    hooks = [unet.down_blocks[n].register_forward_hook(adding(x)) for n, x in added.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


log = logging.getLogger(__name__)
PivotSpace = Literal["latent", "rgb"]
PivotResize = Literal["bilinear", "bicubic"]
PivotFeatures = Literal["cached_t0", "per_step"]


def adamw(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """AdamW with weight decay 0.01 and a learning rate of 5e-5, as in the paper and its code."""
    return torch.optim.AdamW(parameters, lr=5e-5, weight_decay=0.01, fused=True)


class SelfCascade(FromBase):
    """A cascade of one frozen diffusion model, tuning-free or tuned.

    ``sampler`` has the timesteps of the base stage; the other stages run those below K. ``patch``
    changes the network in the stages after the base's, and its steps count from the noisiest of the
    base stage. The paper has none. Upsamplers learn from the features of the unchanged network, so
    they exclude a patch. With ``size_condition: stage`` an SDXL base gets the size of each stage.

    Args:
        scale: Factor between the sides of the base's images and of the output; set by
            ``data.init_args.scale``.
        aspect: If ``base_size`` has another aspect ratio than the output: with ``target`` the base
            stage has the output's, with as many pixels; with ``base`` the first stage changes it.
        stages: ``geometric``: the fewest stages of one factor with at most four times the pixels
            each; ``x4_then_rest``; or their sizes, [[1024, 1024], [2048, 2048]].
        multiple: All sides must be multiples of this, in pixels; the space's factor by default. 64
            avoids odd sides within Stable Diffusion.
        pivot_strength: K as a share of all timesteps. By default the stages begin at the
            signal-to-noise ratio of the paper's K, 700 of the 1000 timesteps of Stable Diffusion's
            schedule.
        pivot_space: Enlarge the pivot as a ``latent``, or as an image (``rgb``), which is decoded
            and encoded again.
        pivot_resize: ``bilinear`` interpolation, as in the paper, or ``bicubic``, as released.
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
        optimizer: Makes the optimiser of the upsamplers.

    Raises:
        ValueError: If a setting is out of range or unknown, or parts do not fit together.
    """

    def __init__(
        self,
        scale: float,
        *,
        aspect: Aspect = "target",
        stages: Rule | list[tuple[int, int]] = "geometric",
        multiple: int | None = None,
        pivot_strength: float | None = None,
        pivot_space: PivotSpace = "latent",
        pivot_resize: PivotResize = "bilinear",
        upsampler: Callable[[Places], FeatureUpsampler] | None = None,
        attach: Attach = "skip",
        places: Sequence[int] | None = None,
        pivot_features: PivotFeatures = "cached_t0",
        adapter_t_min: int = 0,
        caption_dropout: float = 0.1,
        optimizer: OptimizerCallable = adamw,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, optimizer=optimizer, **kwargs)
        if self.patch is not None and upsampler is not None:
            raise ValueError(
                f"model.init_args.patch is {type(self.patch).__name__}, and upsamplers learn from "
                "the unchanged network: leave out model.init_args.patch or upsampler"
            )
        self.aspect, self.rule = aspect, stages
        self.multiple = math.lcm(self.space.factor, multiple or 1)
        self.pivot_space, self.pivot_resize = pivot_space, pivot_resize
        self.pivot_features, self.adapter_t_min = pivot_features, adapter_t_min
        self.caption_dropout = caption_dropout
        if pivot_strength is None:
            self.K = self.schedule.first_noisier(PAPER)
        else:
            self.K = round(pivot_strength * self.schedule.steps)
        self.below_K = [t for t in self.sampled if t < self.K]
        self._check()
        self.attach, self.attachment = attach, attachment(attach, self.denoiser, places)
        embedding = self.denoiser.unet.time_embedding.linear_2.out_features
        found = Places(self.attachment.widths, embedding)
        self.upsampler = None if upsampler is None else upsampler(found)
        self.half_outputs = upsampler is None
        self.trained_ratio: float | None = None  # of sides, in the stage that was trained
        self._name_weights()

    # ------------------------------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Algorithm 1, for the last stage. Only layers after the upsamplers keep activations.

        Raises:
            ValueError: If there is nothing to train, or the batch has no images.
        """
        upsampler = self._upsampler()
        z, pivot, sizes = self._pair(batch)
        t = torch.randint(self.adapter_t_min, self.K, (len(z),), device=z.device)
        eps = torch.randn_like(z)
        z_t = self.schedule.add_noise(z, eps, t)
        known = drop_captions(*self._conditions(batch, sizes[-1], sizes[0]), self.caption_dropout)
        features = self._features(pivot, t, known)
        raw = self._adapted(upsampler, self.schedule.scale_input(z_t, t), t, known, features)
        loss = functional.mse_loss(raw, self.schedule.target(z, eps, t))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @torch.no_grad()
    def _pair(self, batch: Batch) -> tuple[Tensor, Tensor, list[Size]]:
        # z^r and z^(r-1) of the last stage, and all sizes.
        hr = training_images(batch, self.denoiser)
        sizes = self.sizes((hr.shape[-2], hr.shape[-1]))
        if len(sizes) < 2:
            raise ValueError(
                f"images of {sizes[0][0]}x{sizes[0][1]} are as large as the base's, so there is "
                "no stage to train: set data.init_args.scale or crop_size"
            )
        self.trained_ratio = sizes[-1][0] / sizes[-2][0]
        small = resized(hr, sizes[-2], "area")
        return self.space.encode(hr), self.space.encode(small), sizes

    # ------------------------------------------------------------------------------------- sampling

    @torch.no_grad()
    def generate(self, batch: Batch, noise: Noise) -> Tensor:
        """Algorithm 2: all steps at the base's size, then those below K at each larger size."""
        sizes, frames = self.sizes(batch["size"]), frames_of(batch, self.denoiser)
        z: Tensor | None = None
        for stage, size in enumerate(sizes):
            own = noise.stream(stage)  # independent of the number of later stages
            z = self.stage(z, size, self._conditions(batch, size, sizes[0]), own, frames, sizes[0])
        return self.space.decode(cast(Tensor, z))

    def sizes(self, target: Size) -> list[Size]:
        """Return the sizes in pixels of all stages, from the base to ``target``.

        Raises:
            ValueError: If the target is smaller than the base, or a side is no multiple.
        """
        base = self.trained_size(target)
        return cascade_sizes(base, target, self.rule, self.aspect, self.multiple)

    def stage(
        self,
        pivot: Tensor | None,
        size: Size,
        known: tuple[Condition, Condition],
        noise: Noise,
        frames: int | None = None,
        base: Size | None = None,
    ) -> Tensor:
        """Run one stage, r >= 1; or, without a pivot, the base model itself.

        Args:
            pivot: z^(r-1), (B, C, h, w).
            size: (H, W) in pixels.
            known: Conditions with and without the caption.
            noise: Noise of this stage.
            frames: Frames of clips.
            base: Size of the base stage, to apply a patch.

        Returns:
            z^r, (B, C, H / factor, W / factor).
        """
        z = self.start(pivot, size, noise, frames)
        if pivot is None:
            return self.denoise(z, self.sampled, known, noise)
        return self.denoise(z, self.below_K, known, noise, self._predictor(pivot), base)

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
        rgb = self.pivot_space == "rgb"
        new = size if rgb else self.latent_size(size)
        x = self.space.decode(pivot).clamp(0, 1) if rgb else pivot
        x = resized(x, new, self.pivot_resize)
        return self.space.encode(x.clamp(0, 1)) if rgb else x

    def _predictor(self, pivot: Tensor) -> Predict:
        if self.upsampler is None:
            return self.predict
        upsampler = self.upsampler
        kept: dict[str, Tensor] | None = None

        def predict(now: int, z: Tensor, t: Tensor, known: Condition) -> Tensor:
            nonlocal kept
            if now < self.adapter_t_min:
                return self.predict(now, z, t, known)
            if kept is None or self.pivot_features == "per_step":
                # Features depend on the text, so each branch of guidance has its own.
                kept = self._features(torch.cat([pivot] * (len(z) // len(pivot))), t, known)
            return self._adapted(upsampler, self.schedule.scale_input(z, t), t, known, kept)

        return predict

    @torch.no_grad()
    def _features(self, pivot: Tensor, t: Tensor, known: Condition) -> dict[str, Tensor]:
        at = torch.zeros_like(t) if self.pivot_features == "cached_t0" else t
        read = self.denoiser.features(pivot, at, known, self.attachment.middle)
        return self.attachment.features(read)

    def _adapted(
        self,
        upsampler: FeatureUpsampler,
        z: Tensor,
        t: Tensor,
        known: Condition,
        features: dict[str, Tensor],
    ) -> Tensor:
        # Equation 8.
        time = time_embedding(self.denoiser.unet, t, known) if upsampler.from_network else t
        time = repeated(time, z)  # features of clips are those of their frames
        added = upsampler(features, self.attachment.sizes((z.shape[-2], z.shape[-1])), time)
        return self.attachment.predict(self.denoiser, z, t, known, added)

    # ------------------------------------------------------------------------- checks and weights

    def _check(self) -> None:
        check_choice("pivot_space", self.pivot_space, PivotSpace)
        check_choice("pivot_resize", self.pivot_resize, PivotResize)
        check_choice("pivot_features", self.pivot_features, PivotFeatures)
        if not 0 < self.K <= self.schedule.steps or not self.below_K:
            raise ValueError(
                f"model.init_args.pivot_strength makes K {self.K} of {self.schedule.steps}, with "
                f"{len(self.below_K)} timesteps below it; expected a share up to 1, with one"
                " at least"
            )
        if not 0 <= self.adapter_t_min < self.K:
            raise ValueError(
                f"model.init_args.adapter_t_min is {self.adapter_t_min}; expected 0 to {self.K - 1}"
            )
        check_captions(self.encoder, self.guidance, self.caption_dropout)

    def _upsampler(self) -> FeatureUpsampler:
        if self.upsampler is None:
            raise ValueError(
                "SelfCascade has nothing to train: set model.init_args.upsampler, or use test or "
                "predict, which need no tuning"
            )
        return self.upsampler

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs, with K."""
        return {"K": self.K, **super().output_settings}

    def _settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        own, usual = super()._settings()
        own |= {
            "aspect": self.aspect,
            "stages": self.rule if isinstance(self.rule, str) else str(self.rule),
            "multiple": self.multiple,
            "pivot": f"{self.pivot_space} {self.pivot_resize}",
        }
        if self.upsampler is not None:
            own |= {"features": self.pivot_features, "adapter_t_min": self.adapter_t_min}
            own["upsampler"] = type(self.upsampler).__name__
            own["attach"] = f"{self.attach} {' '.join(self.attachment.widths)}"
        usual |= {"aspect": "target", "stages": "geometric", "multiple": self.space.factor}
        usual |= {"pivot": "latent bilinear", "features": "cached_t0", "adapter_t_min": 0}
        return own, usual

    @property
    def trains(self) -> bool:
        """Whether there are upsamplers."""
        return self.upsampler is not None

    def setup(self, stage: str) -> None:
        """Check the frozen parts, and log the number of trained parameters.

        Raises:
            ValueError: If the base or the autoencoder has random weights, or nothing is trained.
        """
        super().setup(stage)
        if stage == "fit":
            count = sum(parameter.numel() for parameter in self._upsampler().parameters())
            log.info("%d parameters are trained, at %s", count, ", ".join(self.attachment.widths))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only the upsamplers and their training settings."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["cascade"] = {
            "base": self.denoiser.source,
            "ratio": self.trained_ratio,
            "places": list(self.attachment.widths),
            "K": self.K,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the checkpoint, and warn if it was trained for another K."""
        super().on_load_checkpoint(checkpoint)
        trained = checkpoint.get("cascade", {}).get("K", self.K)
        if trained != self.K:
            log.warning(
                "the upsamplers were trained below timestep %d, and model.init_args.pivot_strength "
                "makes that %d: they are asked where they have learned nothing, or not where they "
                "have",
                *(trained, self.K),
            )
