"""What a U-Net of diffusers hands from its way down to its way up: read, and added to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Features(NamedTuple):
    """What a U-Net's way up is given.

    Args:
        skips: (B, C, h, w) of each skip connection, the finest first; for video (B F, C, h, w).
        middle: (B, C, h, w) of the middle block, where that was run.
    """

    skips: tuple[Tensor, ...]
    middle: Tensor | None = None


@dataclass(frozen=True)
class Residuals:
    """What is added to it.

    Args:
        skips: By the number of the skip connection, in that one's shape.
        middle: In the shape of the middle block's output.
    """

    skips: Mapping[int, Tensor] = field(default_factory=dict)
    middle: Tensor | None = None


def count_skips(unet: Any) -> int:
    """Number of a U-Net's skip connections."""
    blocks = unet.down_blocks
    return 1 + sum(len(block.resnets) + len(block.downsamplers or ()) for block in blocks)


def read(unet: Any, inputs: Mapping[str, Any], middle: bool) -> Features:
    """Run a U-Net's way down, and no more.

    Args:
        unet: It; uncompiled here, where it is compiled.
        inputs: Of its ``forward``.
        middle: Whether the middle block is run too.
    """
    skips: list[Tensor] = []
    ends: list[Tensor] = []

    def stop(*_: Any) -> None:
        raise _Enough

    first = getattr(unet, "transformer_in", unet.conv_in)  # what makes the first skip
    hooks = [first.register_forward_hook(lambda _, __, out: skips.append(_tensor_of(out)))]
    for block in unet.down_blocks:
        hooks.append(block.register_forward_hook(lambda _, __, out: skips.extend(out[1])))
    if middle:
        hooks.append(unet.mid_block.register_forward_hook(lambda _, __, out: ends.append(out)))
    end = unet.up_blocks[0] if middle else unet.mid_block
    hooks.append(end.register_forward_pre_hook(stop))
    try:
        with suppress(_Enough):
            unet.forward(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return Features(tuple(skips), ends[0] if ends else None)


def additions(unet: Any, residuals: Residuals, like: Tensor) -> dict[str, Any]:
    """Arguments of a U-Net's ``forward`` by which it adds residuals.

    Args:
        unet: It.
        residuals: What is added.
        like: A tensor of the device and type.

    Raises:
        ValueError: There is no skip connection of such a number.
    """
    count = count_skips(unet)
    unknown = [n for n in residuals.skips if not 0 <= n < count]
    if unknown:
        raise ValueError(
            f"residuals are for the skip connections {unknown}; expected 0 to {count - 1}"
        )
    # A zero is added where there is none, also in the middle: without that, diffusers takes the
    # others for those of a T2I-Adapter, which belong elsewhere.
    nothing = torch.zeros((), device=like.device, dtype=like.dtype)
    middle = nothing if residuals.middle is None else residuals.middle
    return {
        "down_block_additional_residuals": tuple(
            residuals.skips.get(n, nothing).to(like.dtype) for n in range(count)
        ),
        "mid_block_additional_residual": middle.to(like.dtype),
    }


def _tensor_of(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


class _Enough(Exception):  # noqa: N818  (no error: it ends the way down)
    """All that was asked for is there."""
