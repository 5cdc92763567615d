"""Features between the down and the up path of a U-Net of diffusers: read, and added to.

``Skips`` is equation 8 of Self-Cascade (Guo et al., ECCV 2024; arXiv 2402.10491), through
diffusers' own arguments. ``Blocks`` is its released code: outputs of the down blocks and of the
middle block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_modules.noise import Size

LEAST = 4  # places in the paper


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


def run_down_path(unet: Any, inputs: Mapping[str, Any], middle: bool) -> Features:
    """Run only the down path of a U-Net.

    Args:
        unet: The U-Net; if compiled, it runs uncompiled here.
        inputs: Arguments of its ``forward``.
        middle: Whether to run the middle block.
    """
    skips: list[Tensor] = []
    ends: list[Tensor] = []

    def stop(*_: Any) -> None:
        raise _DownPathDone

    first = getattr(unet, "transformer_in", unet.conv_in)  # source of the first skip connection
    hooks = [first.register_forward_hook(lambda _, __, out: skips.append(_tensor_of(out)))]
    for block in unet.down_blocks:
        hooks.append(block.register_forward_hook(lambda _, __, out: skips.extend(out[1])))
    if middle:
        hooks.append(unet.mid_block.register_forward_hook(lambda _, __, out: ends.append(out)))
    end = unet.up_blocks[0] if middle else unet.mid_block
    hooks.append(end.register_forward_pre_hook(stop))
    try:
        with suppress(_DownPathDone):
            unet.forward(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return Features(tuple(skips), ends[0] if ends else None)


def residual_arguments(unet: Any, residuals: Residuals, like: Tensor) -> dict[str, Any]:
    """Return the arguments of a U-Net's ``forward`` that add residuals.

    Args:
        unet: The U-Net.
        residuals: The residuals.
        like: A tensor of any shape with the device and type.
    """
    # Missing residuals are zeros, also in the middle: otherwise diffusers interprets the others as
    # those of a T2I-Adapter, at other places.
    nothing = torch.zeros((), device=like.device, dtype=like.dtype)
    middle = nothing if residuals.middle is None else residuals.middle
    return {
        "down_block_additional_residuals": tuple(
            residuals.skips.get(n, nothing).to(like.dtype) for n in range(len(skip_shapes(unet)))
        ),
        "mid_block_additional_residual": middle.to(like.dtype),
    }


def _tensor_of(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


class _DownPathDone(Exception):  # noqa: N818  (no error: it ends the down path)
    """All requested features were read."""


class Attachment(ABC):
    """Places of a U-Net where features are read and added, by their names in checkpoints.

    Args:
        unet: A ``UNet2DConditionModel``.
        skips: By name, the number of the skip connection with the place's width and size.
    """

    middle = False  # whether the middle block is a place, so that the pivot must pass it

    def __init__(self, unet: Any, skips: Mapping[str, int]) -> None:
        shapes = skip_shapes(unet)
        self.skips = dict(skips)
        self.widths = {name: shapes[n][0] for name, n in skips.items()}
        self._halvings = {name: shapes[n][1] for name, n in skips.items()}
        self._odd_up = unet.config.downsample_padding == 1

    def features(self, read: Features) -> dict[str, Tensor]:
        """Return the features of a U-Net's down path by place, in the shapes of ``Features``."""
        return {name: read.skips[n] for name, n in self.skips.items()}

    @abstractmethod
    def adding(
        self, unet: Any, features: Mapping[str, Tensor]
    ) -> AbstractContextManager[Residuals]:
        """Add features at the places within the context, which gives the denoiser's residuals.

        Args:
            unet: The U-Net.
            features: By place, in the shapes of ``features``.
        """

    def sizes(self, size: Size) -> dict[str, Size]:
        """Return (H, W) at each place for a latent of this size."""
        return {name: self._halved(size, times) for name, times in self._halvings.items()}

    def _halved(self, size: Size, times: int) -> Size:
        # Odd sides are rounded as the U-Net pads them.
        height, width = size
        for _ in range(times):
            height, width = (height + self._odd_up) // 2, (width + self._odd_up) // 2
        return height, width


class Skips(Attachment):
    """Skip connections, numbered as in diffusers: 0 is the first convolution's.

    Args:
        unet: A ``UNet2DConditionModel``.
        numbers: Numbers of the places. By default the last one of each resolution and, if those are
            fewer than four, the ones before the deepest: 2, 5, 8, 11 for Stable Diffusion, 2, 5, 7,
            8 for SDXL.

    Raises:
        ValueError: If a number is unknown.
    """

    def __init__(self, unet: Any, numbers: Sequence[int] | None) -> None:
        shapes = skip_shapes(unet)
        if numbers is None:
            last = {halved: n for n, (_, halved) in enumerate(shapes)}
            others = [n for n in reversed(range(len(shapes))) if n not in last.values()]
            numbers = sorted([*last.values(), *others[: max(LEAST - len(last), 0)]])
        _check(numbers, len(shapes))
        super().__init__(unet, {f"skip{n}": n for n in numbers})

    @contextmanager
    def adding(self, unet: Any, features: Mapping[str, Tensor]) -> Iterator[Residuals]:
        """As ``Attachment.adding``."""
        yield Residuals({n: features[name] for name, n in self.skips.items()})


class Blocks(Attachment):
    """Outputs of the down blocks and, as the last number, of the middle block.

    Skip connections stay unchanged.

    Args:
        unet: A ``UNet2DConditionModel``.
        numbers: Numbers of the places; by default all.

    Raises:
        ValueError: If a number is unknown.
    """

    def __init__(self, unet: Any, numbers: Sequence[int] | None) -> None:
        count = len(unet.down_blocks)
        chosen = range(count + 1) if numbers is None else numbers
        _check(chosen, count + 1)
        self.blocks = {f"block{n}": n for n in chosen if n < count}
        ends = _ends(unet)
        skips = {name: ends[n] for name, n in self.blocks.items()}
        self.middle = count in chosen
        super().__init__(unet, skips | ({"middle": ends[-1]} if self.middle else {}))

    def features(self, read: Features) -> dict[str, Tensor]:
        """As ``Attachment.features``."""
        features = super().features(read)
        return features if read.middle is None else features | {"middle": read.middle}

    @contextmanager
    def adding(self, unet: Any, features: Mapping[str, Tensor]) -> Iterator[Residuals]:
        """As ``Attachment.adding``."""

        def adding(x: Tensor) -> Any:
            return lambda _, __, output: (output[0] + x.to(output[0].dtype), *output[1:])

        with ExitStack() as stack:
            for name, n in self.blocks.items():
                hook = unet.down_blocks[n].register_forward_hook(adding(features[name]))
                stack.callback(hook.remove)
            yield Residuals(middle=features.get("middle"))


def skip_shapes(unet: Any) -> list[tuple[int, int]]:
    """Return (channels, number of halvings) of each of a U-Net's skip connections."""
    shapes, halved = [(unet.conv_in.out_channels, 0)], 0
    for block in unet.down_blocks:
        shapes += [(resnet.out_channels, halved) for resnet in block.resnets]
        for downsampler in block.downsamplers or ():
            halved += 1
            shapes.append((downsampler.out_channels, halved))
    return shapes


def _ends(unet: Any) -> list[int]:
    """Return the number of the last skip connection of each down block, which is its output."""
    ends, last = [], 0
    for block in unet.down_blocks:
        last += len(block.resnets) + len(block.downsamplers or ())
        ends.append(last)
    return ends


def _check(numbers: Sequence[int], count: int) -> None:
    wrong = [n for n in numbers if not 0 <= n < count]
    if wrong or not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(
            f"model.init_args.tuning.places is {list(numbers)}; expected different numbers from 0 "
            f"to {count - 1}, the places of this U-Net"
        )
