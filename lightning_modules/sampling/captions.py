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
    """Return two conditions of a batch: with its captions, and with none.

    Without an encoder both are empty, except for ``sizes``.

    Args:
        batch: Batch, with ``text`` if there is an encoder.
        denoiser: The denoiser. No caption is its null text or, if it has none, an empty caption.
        encoder: Returns embeddings of the texts; or a whole ``Condition``, with the pooled
            embedding for SDXL.
        sizes: (B, n), SDXL's size condition, for both.

    Raises:
        ValueError: If the batch has no captions.
    """
    if encoder is None:
        condition = Condition(sizes=sizes)
        return condition, condition
    if "text" not in batch:
        raise ValueError(
            f"no caption of {', '.join(batch['key'][:3])}, and model.init_args.encoder reads them: "
            "main.py pack packs a folder with a caption beside each image (NAME.txt, which may "
            "be empty); or unset the encoder"
        )
    count = len(batch["text"])
    captions = _encoded(encoder, batch["text"])
    tokens = 1 if captions.text is None else captions.text.shape[1]
    null = denoiser.null_text(count, tokens)
    if null is not None and captions.pooled is None:  # a null text has no pooled embedding
        nothing = Condition(text=null)
    else:  # an empty caption, as Stable Diffusion was trained
        empty = _encoded(encoder, [""]).used
        parts = {name: part.expand(count, *part.shape[1:]) for name, part in empty.items()}
        nothing = Condition(**parts)
    return replace(captions, sizes=sizes), replace(nothing, sizes=sizes)


def drop_captions(condition: Condition, nothing: Condition, share: float) -> Condition:
    """Drop captions at random by torch's generator, to train for guidance.

    Args:
        condition: Condition of B captions.
        nothing: Condition without captions, with the same parts.
        share: Share of captions to drop.
    """
    if condition.text is None or not share:
        return condition
    dropped = torch.rand(len(condition.text), device=condition.text.device) < share
    parts = {}
    for name, part in condition.used.items():
        mask = dropped.view(-1, *[1] * (part.ndim - 1))
        parts[name] = torch.where(mask, nothing.used[name].to(part.dtype), part)
    return Condition(**parts)


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
    """Raise if there is guidance, which compares captions with none, but no encoder.

    Raises:
        ValueError: If so; the message names the key to change.
    """
    if guidance != 1 and encoder is None:
        raise ValueError(
            f"model.init_args.sampler.guidance is {guidance:g}, and an encoder of captions is "
            "missing: set model.init_args.encoder, or guidance to 1"
        )


@torch.no_grad()  # only here: the null text of `encode_captions` may be learned
def _encoded(encoder: TextEncoder, texts: list[str]) -> Condition:
    """Return the encoder's result as a condition; SDXL's already is one."""
    encoded: Tensor | Condition = encoder(texts)
    return encoded if isinstance(encoded, Condition) else Condition(text=encoded)


def training_images(batch: Batch) -> Tensor:
    """Return images (B, 3, H, W) or clips (B, F, 3, H, W) to train on."""
    return batch["clip"] if "clip" in batch else batch["hr"]


def sample_shape(channels: int, frames: int | None, size: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of one noisy sample: (C, h, w), or (C, F, h, w) for a clip.

    Args:
        channels: Channels of the space.
        frames: Frames of a clip, or None.
        size: (h, w) in the space.
    """
    if frames is None:
        return channels, *size
    return channels, frames, *size
