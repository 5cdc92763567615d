"""Check that a batch holds what the denoiser models: images or clips."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lightning_modules.backbone.denoiser import Denoiser

if TYPE_CHECKING:
    from datamodules.base import Batch

IMAGE_DIMENSIONS = 4  # of a batch


def frames_of(batch: Batch, denoiser: Denoiser) -> int | None:
    """Return the number of frames to generate; None for images.

    Raises:
        ValueError: If the denoiser models images and the batch asks for clips, or vice versa.
    """
    frames, video = batch.get("frames"), _of_video(denoiser)
    if video and frames is None:
        raise ValueError(
            f"model.init_args.denoiser, a {type(denoiser).__name__}, makes clips, and "
            f"{batch['key'][0]} is an image: use a source of clips, such as "
            "datamodules.clips.Clips, or set frames of Seeds or Prompts"
        )
    if frames is not None and not video:
        raise ValueError(
            f"model.init_args.denoiser, a {type(denoiser).__name__}, makes images, and "
            f"{batch['key'][0]} is a clip: set it to lightning_modules.backbone.denoiser.UNet3D, "
            "or use a source of images"
        )
    return frames


def to_learn(batch: Batch, denoiser: Denoiser) -> Tensor:
    """Return images (B, 3, H, W) or clips (B, F, 3, H, W) to train on.

    Raises:
        ValueError: If the denoiser models images and there are clips, or vice versa, or neither
            exists.
    """
    frames = frames_of(batch, denoiser)
    name = "hr" if frames is None else "clip"
    if name not in batch:
        raise ValueError(
            "data.init_args.train has no images, which are required here: use a source of "
            "images, not of latents"
        )
    return batch["hr"] if frames is None else batch["clip"]


def sample_shape(channels: int, frames: int | None, size: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of one noisy sample: (C, h, w), or (C, F, h, w) for a clip.

    Args:
        channels: Channels of the space.
        frames: Frames of a clip, or None.
        size: (h, w) in the space.
    """
    return (channels, *([] if frames is None else [frames]), *size)


def _of_video(denoiser: Denoiser) -> bool:
    return getattr(denoiser, "dimensions", IMAGE_DIMENSIONS) > IMAGE_DIMENSIONS
