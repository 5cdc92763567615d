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
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_modules.noise import Size

FEWEST_PLACES = 4  # as many as in the paper, unless others are set


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
    middles: list[Tensor] = []

    def read_first(module: nn.Module, inputs: Any, output: Any) -> None:
        skips.append(output[0] if isinstance(output, tuple) else output)

    def read_block(module: nn.Module, inputs: Any, output: Any) -> None:
        skips.extend(output[1])  # a down block returns its output and its skips

    def read_middle(module: nn.Module, inputs: Any, output: Any) -> None:
        middles.append(output)

    def stop(module: nn.Module, inputs: Any) -> None:
        raise _DownPathDone

    first = getattr(unet, "transformer_in", unet.conv_in)  # source of the first skip connection
    end = unet.up_blocks[0] if middle else unet.mid_block
    # diffusers has no call for the down path alone: hooks read it, and an exception ends the pass.
    with ExitStack() as hooks:
        hooks.enter_context(first.register_forward_hook(read_first))
        for block in unet.down_blocks:
            hooks.enter_context(block.register_forward_hook(read_block))
        if middle:
            hooks.enter_context(unet.mid_block.register_forward_hook(read_middle))
        hooks.enter_context(end.register_forward_pre_hook(stop))
        with suppress(_DownPathDone):
            unet.forward(**inputs)  # not `unet(...)`, which may be compiled
    return Features(tuple(skips), middles[0] if middles else None)


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
    count = len(skip_shapes(unet))
    skips = [residuals.skips.get(number, nothing).to(like.dtype) for number in range(count)]
    middle = nothing if residuals.middle is None else residuals.middle
    return {
        "down_block_additional_residuals": tuple(skips),
        "mid_block_additional_residual": middle.to(like.dtype),
    }


class _DownPathDone(Exception):  # noqa: N818  (no error: it ends the down path)
    """All requested features were read."""


class Attachment(ABC):
    """Places of a U-Net where features are read and added, by their names in checkpoints.

    Args:
        unet: A ``UNet2DConditionModel``.
        skips: By name, the number of the skip connection with the place's width and size.
    """

    middle = False  # whether the middle block is a place, so that it has to be run for its features

    def __init__(self, unet: Any, skips: Mapping[str, int]) -> None:
        shapes = skip_shapes(unet)
        self.skips = dict(skips)
        self.widths = {name: shapes[number].channels for name, number in skips.items()}
        self._halvings = {name: shapes[number].halvings for name, number in skips.items()}
        self._rounds_up = unet.config.downsample_padding == 1

    def features(self, read: Features) -> dict[str, Tensor]:
        """Return the features of a U-Net's down path by place, in the shapes of ``Features``."""
        return {name: read.skips[number] for name, number in self.skips.items()}

    @abstractmethod
    def adding(
        self, unet: Any, features: Mapping[str, Tensor]
    ) -> AbstractContextManager[Residuals]:
        """Return a context in which features are added at the places.

        It gives the residuals that the denoiser is to be called with.

        Args:
            unet: The U-Net.
            features: By place, in the shapes of ``features``.
        """

    def sizes(self, size: Size) -> dict[str, Size]:
        """Return (H, W) at each place for a latent of this size."""
        sizes = {}
        for name, halvings in self._halvings.items():
            height, width = size
            for _ in range(halvings):  # the padding decides how the U-Net halves odd sides
                height = (height + self._rounds_up) // 2
                width = (width + self._rounds_up) // 2
            sizes[name] = height, width
        return sizes


class Skips(Attachment):
    """Skip connections, numbered as in diffusers: 0 is the first convolution's.

    Args:
        unet: A ``UNet2DConditionModel``.
        numbers: Numbers of the places. By default the last one of each resolution and, if those are
            fewer than four, the ones before the deepest: 2, 5, 8, 11 for Stable Diffusion, 2, 5, 7,
            8 for SDXL.
    """

    def __init__(self, unet: Any, numbers: Sequence[int] | None) -> None:
        shapes = skip_shapes(unet)
        if numbers is None:
            last_of_each = {shape.halvings: number for number, shape in enumerate(shapes)}
            chosen = list(last_of_each.values())
            others = [number for number in range(len(shapes)) if number not in chosen]
            while len(chosen) < FEWEST_PLACES and others:
                chosen.append(others.pop())  # the deepest
            numbers = sorted(chosen)
        super().__init__(unet, {f"skip{number}": number for number in numbers})

    @contextmanager
    def adding(self, unet: Any, features: Mapping[str, Tensor]) -> Iterator[Residuals]:
        """Give the features as residuals of the skip connections; see ``Attachment.adding``."""
        yield Residuals({number: features[name] for name, number in self.skips.items()})


class Blocks(Attachment):
    """Outputs of the down blocks and, as the last number, of the middle block.

    Skip connections stay unchanged.

    Args:
        unet: A ``UNet2DConditionModel``.
        numbers: Numbers of the places; by default all.
    """

    def __init__(self, unet: Any, numbers: Sequence[int] | None) -> None:
        count = len(unet.down_blocks)
        if numbers is None:
            numbers = range(count + 1)
        outputs = _outputs_of_blocks(unet)
        self.blocks = {f"block{number}": number for number in numbers if number < count}
        skips = {name: outputs[number] for name, number in self.blocks.items()}
        self.middle = count in numbers
        if self.middle:
            skips["middle"] = outputs[-1]  # the middle block keeps width and size
        super().__init__(unet, skips)

    def features(self, read: Features) -> dict[str, Tensor]:
        """Return the features by place, with the middle block's; see ``Attachment.features``."""
        features = super().features(read)
        return features if read.middle is None else features | {"middle": read.middle}

    @contextmanager
    def adding(self, unet: Any, features: Mapping[str, Tensor]) -> Iterator[Residuals]:
        """Add to the blocks' outputs by hooks, and give the middle's; see ``Attachment.adding``."""

        def add(added: Tensor, block: nn.Module, inputs: Any, output: Any) -> Any:
            x, skips = output  # skips stay as they are
            return x + added.to(x.dtype), skips

        with ExitStack() as hooks:
            for name, number in self.blocks.items():
                hook = partial(add, features[name])
                hooks.enter_context(unet.down_blocks[number].register_forward_hook(hook))
            yield Residuals(middle=features.get("middle"))


class SkipShape(NamedTuple):
    """Channels of a skip connection, and how often the sides were halved before it."""

    channels: int
    halvings: int


def skip_shapes(unet: Any) -> list[SkipShape]:
    """Return the shapes of a U-Net's skip connections, in order."""
    halvings = 0
    shapes = [SkipShape(unet.conv_in.out_channels, halvings)]
    for block in unet.down_blocks:
        for resnet in block.resnets:
            shapes.append(SkipShape(resnet.out_channels, halvings))
        for downsampler in block.downsamplers or ():
            halvings += 1
            shapes.append(SkipShape(downsampler.out_channels, halvings))
    return shapes


def _outputs_of_blocks(unet: Any) -> list[int]:
    """Return the number of the last skip connection of each down block, which is its output."""
    numbers = []
    last = 0
    for block in unet.down_blocks:
        last += len(block.resnets) + len(block.downsamplers or ())
        numbers.append(last)
    return numbers
