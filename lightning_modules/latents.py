"""Methods in latents: their autoencoder's weights, latent pairs of HR and LR, checks of parts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from files.batch import Batch
from files.weights import unlike
from lightning_modules.backbone.condition import Texts
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.backbone.space import Space
from lightning_modules.base import ImageModel
from lightning_modules.frozen import same_weights
from lightning_modules.noise import Noise

log = logging.getLogger(__name__)


class InLatents(ImageModel):
    """A method with a frozen ``space``, whose weights may have a file of their own.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        space_weights: Weights of the space's autoencoder, unless ``space`` sets them: a run of
            ``Autoencoder``, its authors' file, or a name of ``configs/weights.yaml``.
    """

    part_files: ClassVar[Mapping[str, str]] = {"space_weights": "space.load_official"}
    pretrained_parts: ClassVar[Mapping[str, str]] = {"space_weights": "space"}
    trained_settings: ClassVar[Mapping[str, str]] = {"space": "space.settings"}
    space: Space

    def __init__(self, scale: float, space_weights: str | None = None, **kwargs: Any) -> None:
        super().__init__(scale, **kwargs)
        self.space_weights = space_weights

    @property
    def latent_space(self) -> Space:
        """The space of the latents."""
        return self.space

    @property
    def caption_encoder(self) -> Texts | None:
        """The part that encodes captions."""
        return next((part for part in self.children() if isinstance(part, Texts)), None)

    def enlarged_lr(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Return LR enlarged to (B, 3, H, W), the image that a pair's second latent encodes."""
        return enlarged(lr, size)

    def setup(self, stage: str) -> None:
        """Compile the autoencoder if a network of the method is. Subclasses must call super()."""
        super().setup(stage)
        if any(getattr(part, "compiled", False) for part in self.children()):
            self.space.compile_halves()


@torch.no_grad()
def latent_pair(space: Space, batch: Batch, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
    """Return latents of HR and of the enlarged LR; latents in the batch are used as they are.

    Args:
        space: The space of the latents.
        batch: ``lr``, and ``hr`` or its latent from ``main.py encode``.
        noise: Draws from the encoder's distribution, if it has one; by default its mean is used,
            as in ``encode``.

    Returns:
        Both (B, channels, h, w).

    Raises:
        ValueError: If the batch has latents of another space, or no LR.
    """
    if noise is None and {"hr", "lr"} <= batch.keys() and "latent" not in batch:
        images = torch.cat([batch["hr"], enlarged(batch["lr"], batch["size"])])
        z, y = space.encode(images).chunk(2)  # one call of the encoder for both
        return z, y
    z = hr_latent(space, batch, noise)
    require_lr(batch)
    if "lr_latent" in batch:
        return z, space.standardised(batch["lr_latent"])
    return z, space.encode(enlarged(batch["lr"], batch["size"]), noise)


def require_lr(batch: Batch) -> None:
    """Raise if a batch of latents has no LR images.

    Raises:
        ValueError: If so.
    """
    if "lr" not in batch:
        raise ValueError(
            "data.init_args.train has only latents, and this method also needs LR images: "
            "encode with --encode.pairs true, or with --encode.hr true"
        )


@torch.no_grad()
def hr_latent(space: Space, batch: Batch, noise: Noise | None = None) -> Tensor:
    """Return latents of HR, (B, C, h, w): those of the batch, or encoded from its images.

    Args:
        space: The space of the latents.
        batch: ``hr``, or its latent from ``main.py encode``.
        noise: As in ``latent_pair``.
    """
    if "latent" in batch:
        return space.take(batch["latent"], batch["space"])
    return space.encode(batch["hr"], noise)


def whole_lr(pixels: int, scale: float) -> int:
    """Return the least number of LR pixels that become a multiple of ``pixels`` in the output."""
    # In lowest terms pixels / scale = n / m, so n LR pixels become m times ``pixels``.
    return (pixels / Fraction(scale).limit_denominator(100)).numerator


def enlarged(lr: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge as in the releases of ResShift and InvSR: bicubic, a = -0.75, no antialiasing.

    Args:
        lr: (B, 3, h, w).
        size: (H, W).

    Returns:
        (B, 3, H, W), not clamped.
    """
    return functional.interpolate(lr, size, mode="bicubic", align_corners=False)


def refuse_compiled(denoiser: UNet2D, changes: str) -> None:
    """Raise if a network is compiled, since changes of its layers would have no effect on it.

    Args:
        denoiser: The network.
        changes: Argument that changes it, for the message.

    Raises:
        ValueError: If so.
    """
    if denoiser.flags.compile:
        raise ValueError(
            f"{changes} has no effect on a compiled network: set compile in "
            "model.init_args.denoiser.init_args.flags to false"
        )


def check_base(
    denoiser: UNet2D,
    space: Space,
    schedule: Schedule,
    timesteps: Sequence[int],
    frozen: bool = True,
) -> None:
    """Raise if the base is not trained, or was with another autoencoder, schedule or timesteps.

    Args:
        denoiser: The base, from a run, or a folder with its scheduler.
        space: The latents here.
        schedule: The schedule here.
        timesteps: Those that are used here, from 0.
        frozen: Whether the base stays as it is; if not, it may be trained for another schedule.

    Raises:
        ValueError: If so; the message has what differs.
    """
    _check_has_weights(denoiser, frozen)
    _check_latents(denoiser, space)
    _check_schedule(denoiser, schedule, frozen)
    if frozen:
        _check_timesteps(denoiser, schedule, timesteps)


def _check_has_weights(denoiser: UNet2D, frozen: bool) -> None:
    """Raise if the base has random weights, or is to stay as it is and may train."""
    # `source` names weights that stay as they are, `initial_source` also those that train.
    if not (denoiser.source if frozen else denoiser.initial_source):
        raise ValueError(
            "a trained base is required: set its folder or hub name in model.init_args.denoiser"
            f"{' (and its flags.frozen to true)' if frozen else ''}, or "
            "model.init_args.denoiser_weights to its run"
        )


def _check_latents(denoiser: UNet2D, space: Space) -> None:
    """Raise if the base was trained in other latents than these; unknown ones pass."""
    differences = unlike(space.settings, denoiser.trained_latents)
    trained_space = denoiser.trained_space
    if trained_space and not same_weights(trained_space, space.source):
        differences.append(f"{space.source or 'no weights'}, there {trained_space}")
    if differences:
        raise ValueError(
            "model.init_args.denoiser_weights were trained in other latents than those of "
            f"model.init_args.space ({'; '.join(differences)}): set the same"
        )


def _check_schedule(denoiser: UNet2D, schedule: Schedule, frozen: bool) -> None:
    """Raise, or warn if the base trains, if it was trained for another schedule."""
    # `unlike` compares what both have, so an unknown schedule differs in nothing.
    differences = unlike(schedule.settings, denoiser.trained_schedule or {})
    if not differences:
        return
    message = (
        f"model.init_args.schedule differs from that of the base, {denoiser.initial_source} "
        f"({'; '.join(differences)})"
    )
    if frozen:
        raise ValueError(f"{message}: set it as there")
    log.warning("%s: it makes noise until it has been trained further", message)


def _check_timesteps(denoiser: UNet2D, schedule: Schedule, timesteps: Sequence[int]) -> None:
    """Raise if a frozen base was not trained at some of these timesteps."""
    first, end = denoiser.trained_timesteps or (0, schedule.steps)
    if not first <= min(timesteps) <= max(timesteps) < end:
        raise ValueError(
            f"the base was trained on timesteps {first} to {end - 1}, counted from 0, and "
            f"{max(timesteps)} to {min(timesteps)} are used: choose others, or train a base "
            "without timesteps"
        )
