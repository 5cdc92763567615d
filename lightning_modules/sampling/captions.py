"""Captions, empty captions and clips as conditions of a batch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from degradations.device import copy_to
from files.batch import Batch
from lightning_modules.backbone.condition import Condition, TextEncoder
from lightning_modules.backbone.denoiser import Denoiser


def encode_captions(
    batch: Batch, denoiser: Denoiser, encoder: TextEncoder | None, sizes: Tensor | None = None
) -> tuple[Condition, Condition]:
    """Return the conditions of a batch with its captions and without; both empty without encoder.

    Args:
        batch: Batch, with ``text`` if there is an encoder.
        denoiser: The denoiser. Its null text stands for no caption; otherwise an empty caption.
        encoder: Returns embeddings of the texts; or a whole ``Condition``, with the pooled
            embedding for SDXL.
        sizes: (B, n), SDXL's size condition, for both.

    Raises:
        ValueError: If the batch has no captions.
    """
    if encoder is None:
        return (Condition(sizes=sizes),) * 2
    if "text" not in batch:
        raise ValueError(
            f"no caption of {', '.join(batch['key'][:3])}, and model.init_args.encoder reads them: "
            "use a source with text (an empty one for an image without), or unset the encoder"
        )
    texts = batch["text"]
    known = _encoded(encoder, texts)
    tokens = 1 if known.text is None else known.text.shape[1]
    null = denoiser.null_text(len(texts), tokens)
    if null is not None and known.pooled is None:
        nothing = Condition(text=null)
    else:  # as Stable Diffusion was trained
        empty = _encoded(encoder, [""]).used
        nothing = Condition(**{k: v.expand(len(texts), *v.shape[1:]) for k, v in empty.items()})
    return replace(known, sizes=sizes), replace(nothing, sizes=sizes)


def drop_captions(condition: Condition, nothing: Condition, share: float) -> Condition:
    """Drop captions at random by torch's generator, to train for guidance.

    Args:
        condition: Condition of B captions.
        nothing: Condition without captions, with the same parts.
        share: Share of captions to drop.
    """
    if condition.text is None or not share:
        return condition
    left_out = torch.rand(len(condition.text), device=condition.text.device) < share

    def either(part: Tensor, other: Tensor) -> Tensor:
        return torch.where(left_out.view(-1, *[1] * (part.ndim - 1)), other.to(part.dtype), part)

    others = nothing.used
    return Condition(**{name: either(part, others[name]) for name, part in condition.used.items()})


def size_ids(size: tuple[int, int], count: int, device: torch.device) -> Tensor:
    """Return SDXL's size condition (count, 6): original (H, W), no crop, target (H, W).

    Args:
        size: (H, W) of both original and target.
        count: Number of samples.
        device: Device of the result.
    """
    H, W = size
    return copy_to(torch.tensor([[H, W, 0, 0, H, W]]), device).expand(count, -1)


def check_guidance(encoder: TextEncoder | None, guidance: float) -> None:
    """Raise if there is guidance without an encoder.

    Raises:
        ValueError: If so; the message names the key to change.
    """
    if guidance != 1 and encoder is None:
        raise ValueError(
            f"model.init_args.sampler.guidance is {guidance:g}, and an encoder of captions is "
            "missing: set model.init_args.encoder, or guidance to 1"
        )


@torch.no_grad()  # but the null text may be learned
def _encoded(encoder: TextEncoder, texts: list[str]) -> Condition:
    found: Tensor | Condition = encoder(texts)
    return found if isinstance(found, Condition) else Condition(text=found)


IMAGE_DIMENSIONS = 4  # of a batch


def frames_of(batch: Batch, denoiser: Denoiser) -> int | None:
    """Return the number of frames to generate; None for images.

    Raises:
        ValueError: If the denoiser models images and the batch asks for clips, or vice versa.
    """
    frames = batch.get("frames")
    video = getattr(denoiser, "dimensions", IMAGE_DIMENSIONS) > IMAGE_DIMENSIONS
    if video != (frames is not None):
        makes, wants = ("clips", "an image") if video else ("images", "a clip")
        raise ValueError(
            f"model.init_args.denoiser, a {type(denoiser).__name__}, makes {makes}, and "
            f"{batch['key'][0]} is {wants}: use a source of {makes}, or another denoiser"
        )
    return frames


def training_images(batch: Batch, denoiser: Denoiser) -> Tensor:
    """Return images (B, 3, H, W) or clips (B, F, 3, H, W) to train on.

    Raises:
        ValueError: If the denoiser models images and there are clips, or vice versa, or neither
            exists.
    """
    frames = frames_of(batch, denoiser)
    name = "hr" if frames is None else "clip"
    if name not in batch:
        raise ValueError("data.init_args.train has no images: use a source of images, not latents")
    return batch["hr"] if frames is None else batch["clip"]


def sample_shape(channels: int, frames: int | None, size: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of one noisy sample: (C, h, w), or (C, F, h, w) for a clip.

    Args:
        channels: Channels of the space.
        frames: Frames of a clip, or None.
        size: (h, w) in the space.
    """
    return (channels, *([] if frames is None else [frames]), *size)
