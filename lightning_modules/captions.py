"""What a denoiser is told of a batch's captions, and, for guidance, of none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_modules.backbone.condition import Condition, TextEncoder
from lightning_modules.backbone.denoiser import Denoiser

if TYPE_CHECKING:
    from datamodules.base import Batch


@torch.no_grad()
def told(
    batch: Batch, denoiser: Denoiser, encoder: TextEncoder | None, sizes: Tensor | None = None
) -> tuple[Condition, Condition]:
    """The captions of a batch, and what stands for none; nothing twice without an encoder.

    Args:
        batch: With ``text``, where there is an encoder.
        denoiser: Whose null text stands for none, where it has one; else an empty caption does.
        encoder: Gives embeddings of the texts; or a whole ``Condition``, with the pooled embedding
            that SDXL wants.
        sizes: (B, n), what SDXL is told of sizes, in both.

    Raises:
        ValueError: The batch has no captions.
    """
    if encoder is None:
        return (Condition(sizes=sizes),) * 2
    if "text" not in batch:
        raise ValueError(
            f"{batch['key'][0]} has no caption, and model.init_args.encoder reads them: take a "
            "source that gives text, or unset the encoder"
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


def dropped(condition: Condition, nothing: Condition, share: float) -> Condition:
    """Leave out captions at random, by torch's generator: training for guidance.

    Args:
        condition: Of B captions.
        nothing: What stands for none, with the same parts.
        share: Of the captions that are left out.
    """
    if condition.text is None or not share:
        return condition
    left_out = torch.rand(len(condition.text), device=condition.text.device) < share

    def either(part: Tensor, other: Tensor) -> Tensor:
        return torch.where(left_out.view(-1, *[1] * (part.ndim - 1)), other.to(part.dtype), part)

    others = nothing.used
    return Condition(**{name: either(part, others[name]) for name, part in condition.used.items()})


def size_ids(size: tuple[int, int], count: int, device: torch.device) -> Tensor:
    """(count, 6), what SDXL is told: the original (H, W), no crop, and the target (H, W).

    Args:
        size: (H, W) of both.
        count: Number of samples.
        device: Where it is wanted.
    """
    H, W = size
    return torch.tensor([[H, W, 0, 0, H, W]], device=device).expand(count, -1)


def check_captions(encoder: TextEncoder | None, guidance: float, dropout: float = 0.0) -> None:
    """Refuse guidance that nothing reads captions for, and what is no share.

    Raises:
        ValueError: With the key to change.
    """
    if not 0 <= dropout <= 1:
        raise ValueError(f"model.init_args.caption_dropout is {dropout}; expected 0 to 1")
    if guidance != 1 and encoder is None:
        raise ValueError(
            f"model.init_args.guidance is {guidance:g}, and nothing reads captions: set "
            "model.init_args.encoder, or guidance to 1"
        )


def _encoded(encoder: TextEncoder, texts: list[str]) -> Condition:
    found: Tensor | Condition = encoder(texts)
    return found if isinstance(found, Condition) else Condition(text=found)
