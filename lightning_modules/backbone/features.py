"""Features between the down and up paths of diffusers' U-Nets: read, and added to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Features(NamedTuple):
    """Inputs of a U-Net's up path.

    Args:
        skips: (B, C, h, w) of each skip connection, finest first; for video (B F, C, h, w).
        middle: (B, C, h, w) of the middle block, if it was run.
    """

    skips: tuple[Tensor, ...]
    middle: Tensor | None = None


@dataclass(frozen=True)
class Residuals:
    """Residuals to add to the features.

    Args:
        skips: By the number of the skip connection, in its shape.
        middle: In the shape of the middle block's output.
    """

    skips: Mapping[int, Tensor] = field(default_factory=dict)
    middle: Tensor | None = None


def count_skips(unet: Any) -> int:
    """Return the number of a U-Net's skip connections."""
    blocks = unet.down_blocks
    return 1 + sum(len(block.resnets) + len(block.downsamplers or ()) for block in blocks)


def read(unet: Any, inputs: Mapping[str, Any], middle: bool) -> Features:
    """Run only the down path of a U-Net.

    Args:
        unet: The U-Net; if compiled, it runs uncompiled here.
        inputs: Arguments of its ``forward``.
        middle: Whether to run the middle block.
    """
    skips: list[Tensor] = []
    ends: list[Tensor] = []

    def stop(*_: Any) -> None:
        raise _Enough

    first = getattr(unet, "transformer_in", unet.conv_in)  # source of the first skip connection
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
    """Return the arguments of a U-Net's ``forward`` that add residuals.

    Args:
        unet: The U-Net.
        residuals: The residuals.
        like: A tensor with the device and type.

    Raises:
        ValueError: If the number of a skip connection is unknown.
    """
    count = count_skips(unet)
    unknown = [n for n in residuals.skips if not 0 <= n < count]
    if unknown:
        raise ValueError(
            f"residuals are for the skip connections {unknown}; expected 0 to {count - 1}"
        )
    # Missing residuals are zeros, also in the middle: otherwise diffusers interprets the others as
    # those of a T2I-Adapter, at other places.
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


class _Enough(Exception):  # noqa: N818  (no error: it ends the down path)
    """All requested features were read."""
