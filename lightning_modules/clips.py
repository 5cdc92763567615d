"""Images or clips: which of the two a batch has, and whether that is what a denoiser makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lightning_modules.backbone.denoiser import Denoiser

if TYPE_CHECKING:
    from datamodules.base import Batch

PICTURES = 4  # dimensions of a batch of them


def frames_of(batch: Batch, denoiser: Denoiser) -> int | None:
    """Number of frames that are asked for; None where it is images.

    Raises:
        ValueError: The denoiser makes the other.
    """
    frames, video = batch.get("frames"), _of_video(denoiser)
    if video and frames is None:
        raise ValueError(
            f"model.init_args.denoiser, a {type(denoiser).__name__}, makes clips, and "
            f"{batch['key'][0]} is an image: take a source of clips, such as "
            "datamodules.clips.Clips, or set frames of Seeds or Prompts"
        )
    if frames is not None and not video:
        raise ValueError(
            f"model.init_args.denoiser, a {type(denoiser).__name__}, makes images, and "
            f"{batch['key'][0]} is a clip: set it to lightning_modules.backbone.denoiser.UNet3D, "
            "or take a source of images"
        )
    return frames


def to_learn(batch: Batch, denoiser: Denoiser) -> Tensor:
    """Images, (B, 3, H, W), or clips, (B, F, 3, H, W), to train on.

    Raises:
        ValueError: The denoiser makes the other, or there are neither.
    """
    frames = frames_of(batch, denoiser)
    name = "hr" if frames is None else "clip"
    if name not in batch:
        raise ValueError(
            "data.init_args.train gives no images, which are wanted here: take a source of "
            "images, not of latents"
        )
    return batch["hr"] if frames is None else batch["clip"]


def sample_shape(channels: int, frames: int | None, size: tuple[int, int]) -> tuple[int, ...]:
    """Of one noisy sample: (C, h, w), or (C, F, h, w) of a clip.

    Args:
        channels: Of the space.
        frames: Of a clip, or None.
        size: (h, w) in the space.
    """
    return (channels, *([] if frames is None else [frames]), *size)


def _of_video(denoiser: Denoiser) -> bool:
    return getattr(denoiser, "dimensions", PICTURES) > PICTURES
