"""Where Self-Cascade takes features of the pivot from a U-Net, and where it adds them.

`Skips` are equation 8 of the paper, which needs nothing but diffusers' own arguments. `Blocks` are
what its released code has: outputs of the down blocks and of the middle one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.denoiser import Features, Residuals, UNet2D
from lightning_modules.stages import Size

Attach = Literal["skip", "block_out"]

LEAST = 4  # places of the paper


class Attachment(ABC):
    """Base of both.

    Args:
        unet: A ``UNet2DConditionModel``.
        numbers: Of the places; the paper's, or the release's, by default.

    Raises:
        ValueError: A number that is none, or none at all.
    """

    middle = False  # whether the middle block is a place, so that the pivot has to pass it

    def __init__(self, unet: Any, numbers: Sequence[int] | None) -> None:
        self.skips = skip_shapes(unet)
        count = self.count(unet)
        self.numbers = list(self.default(unet) if numbers is None else numbers)
        wrong = [n for n in self.numbers if not 0 <= n < count]
        if wrong or not self.numbers or len(set(self.numbers)) < len(self.numbers):
            raise ValueError(
                f"model.init_args.places is {self.numbers}; expected differing numbers from 0 to "
                f"{count - 1}, which is what this U-Net has"
            )
        self._odd_up = unet.config.downsample_padding == 1

    @abstractmethod
    def count(self, unet: Any) -> int:
        """How many places there are."""

    @abstractmethod
    def default(self, unet: Any) -> list[int]:
        """The places by default."""

    @abstractmethod
    def name(self, number: int) -> str:
        """Of a place, in checkpoints."""

    @abstractmethod
    def skip_of(self, number: int) -> int:
        """Number of the skip connection that has the place's width and size."""

    @abstractmethod
    def features(self, read: Features) -> dict[str, Tensor]:
        """What a U-Net's way down gave, by place."""

    @abstractmethod
    def predict(
        self,
        denoiser: UNet2D,
        z: Tensor,
        t: Tensor,
        condition: Condition,
        added: Mapping[str, Tensor],
    ) -> Tensor:
        """The denoiser's raw output, with ``added`` at the places. Args as ``Denoiser.forward``."""

    @property
    def widths(self) -> dict[str, int]:
        """Channels at each place."""
        return {self.name(n): self.skips[self.skip_of(n)][0] for n in self.numbers}

    def sizes(self, size: Size) -> dict[str, Size]:
        """(H, W) at each place for a latent of this size."""
        return {
            self.name(n): self._halved(size, self.skips[self.skip_of(n)][1]) for n in self.numbers
        }

    def _halved(self, size: Size, times: int) -> Size:
        # Of odd sides a pixel more or less, as the U-Net pads.
        height, width = size
        for _ in range(times):
            height, width = (height + self._odd_up) // 2, (width + self._odd_up) // 2
        return height, width


class Skips(Attachment):
    """Skip connections, numbered as diffusers has them: 0 is the first convolution's.

    By default the last one of each resolution, and where those are fewer than four, the ones before
    the deepest: 2, 5, 8, 11 of Stable Diffusion, 2, 5, 7, 8 of SDXL.
    """

    def count(self, unet: Any) -> int:
        """As ``Attachment.count``."""
        return len(self.skips)

    def default(self, unet: Any) -> list[int]:
        """As ``Attachment.default``."""
        last = {halved: n for n, (_, halved) in enumerate(self.skips)}
        others = [n for n in reversed(range(len(self.skips))) if n not in last.values()]
        return sorted([*last.values(), *others[: max(LEAST - len(last), 0)]])

    def name(self, number: int) -> str:
        """As ``Attachment.name``."""
        return f"skip{number}"

    def skip_of(self, number: int) -> int:
        """As ``Attachment.skip_of``."""
        return number

    def features(self, read: Features) -> dict[str, Tensor]:
        """As ``Attachment.features``."""
        return {self.name(n): read.skips[n] for n in self.numbers}

    def predict(
        self,
        denoiser: UNet2D,
        z: Tensor,
        t: Tensor,
        condition: Condition,
        added: Mapping[str, Tensor],
    ) -> Tensor:
        """As ``Attachment.predict``."""
        residuals = Residuals({n: added[self.name(n)] for n in self.numbers})
        return denoiser(z, t, condition, residuals)


class Blocks(Attachment):
    """Outputs of the down blocks, and behind them, as the last number, of the middle one.

    What the skip connections carry stays as it is. By default all of them.
    """

    def __init__(self, unet: Any, numbers: Sequence[int] | None) -> None:
        self._blocks = len(unet.down_blocks)
        super().__init__(unet, numbers)
        self.middle = self._blocks in self.numbers
        self._ends = _ends(unet)

    def count(self, unet: Any) -> int:
        """As ``Attachment.count``."""
        return self._blocks + 1

    def default(self, unet: Any) -> list[int]:
        """As ``Attachment.default``."""
        return list(range(self._blocks + 1))

    def name(self, number: int) -> str:
        """As ``Attachment.name``."""
        return "middle" if number == self._blocks else f"block{number}"

    def skip_of(self, number: int) -> int:
        """As ``Attachment.skip_of``."""
        return self._ends[min(number, self._blocks - 1)]

    def features(self, read: Features) -> dict[str, Tensor]:
        """As ``Attachment.features``."""
        found = {self.name(n): read.skips[self.skip_of(n)] for n in self.numbers}
        return found if read.middle is None else found | {"middle": read.middle}

    def predict(
        self,
        denoiser: UNet2D,
        z: Tensor,
        t: Tensor,
        condition: Condition,
        added: Mapping[str, Tensor],
    ) -> Tensor:
        """As ``Attachment.predict``."""
        residuals = Residuals(middle=added.get("middle"))
        numbers = [n for n in self.numbers if n < self._blocks]
        with _added(denoiser.unet, {n: added[self.name(n)] for n in numbers}):
            return denoiser(z, t, condition, residuals)


def attachment(attach: Attach, denoiser: UNet2D, numbers: Sequence[int] | None) -> Attachment:
    """By its name.

    Args:
        attach: ``skip`` or ``block_out``.
        denoiser: Whose features are meant.
        numbers: Of the places.

    Raises:
        ValueError: An unknown name or number, or outputs of blocks in a compiled network.
    """
    if attach == "skip":
        return Skips(denoiser.unet, numbers)
    if attach != "block_out":
        raise ValueError(f"model.init_args.attach is {attach!r}; expected skip or block_out")
    if denoiser.flags.compile:
        raise ValueError(
            "model.init_args.attach is block_out, which a compiled network would not notice: set "
            "compile in model.init_args.denoiser.init_args.flags to false"
        )
    return Blocks(denoiser.unet, numbers)


def skip_shapes(unet: Any) -> list[tuple[int, int]]:
    """(channels, how often the sides are halved) of each of a U-Net's skip connections."""
    shapes, halved = [(unet.conv_in.out_channels, 0)], 0
    for block in unet.down_blocks:
        shapes += [(resnet.out_channels, halved) for resnet in block.resnets]
        for downsampler in block.downsamplers or ():
            halved += 1
            shapes.append((downsampler.out_channels, halved))
    return shapes


@torch.no_grad()
def time_embedding(unet: Any, t: Tensor, condition: Condition) -> Tensor:
    """(B, E), a U-Net's own embedding of the timestep and of what goes with it, as SDXL's sizes.

    Args:
        unet: It.
        t: (B,) timesteps.
        condition: What it is condition; ``noise_level`` is not looked at.
    """
    dtype = next(unet.parameters()).dtype
    embedded: Tensor = unet.time_embedding(unet.time_proj(t).to(dtype))
    if not hasattr(unet, "get_aug_embed"):  # that of video is condition nothing besides
        return embedded
    also = {"text_embeds": condition.pooled, "time_ids": condition.sizes}
    text = {"encoder_hidden_states": condition.text, "added_cond_kwargs": also}
    more: Tensor | None = unet.get_aug_embed(emb=embedded, **text)
    return embedded if more is None else embedded + more


def _ends(unet: Any) -> list[int]:
    """Number of the last skip connection of each down block, which is its output."""
    ends, last = [], 0
    for block in unet.down_blocks:
        last += len(block.resnets) + len(block.downsamplers or ())
        ends.append(last)
    return ends


@contextmanager
def _added(unet: Any, added: Mapping[int, Tensor]) -> Iterator[None]:
    def adding(x: Tensor) -> Any:
        return lambda _, __, output: (output[0] + x.to(output[0].dtype), *output[1:])

    hooks = [unet.down_blocks[n].register_forward_hook(adding(x)) for n, x in added.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
