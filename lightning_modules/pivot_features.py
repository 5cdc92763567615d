"""Places in a U-Net where Self-Cascade reads and adds features of the pivot.

`Skips` is equation 8 of the paper, through diffusers' own arguments. `Blocks` is the released code:
outputs of the down blocks and of the middle block.
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

LEAST = 4  # places in the paper


class Attachment(ABC):
    """Base class of the kinds of places.

    Args:
        unet: A ``UNet2DConditionModel``.
        numbers: Numbers of the places; the paper's, or the release's, by default.

    Raises:
        ValueError: If a number is unknown, or there is none.
    """

    middle = False  # whether the middle block is a place, so that the pivot must pass it

    def __init__(self, unet: Any, numbers: Sequence[int] | None) -> None:
        self.skips = skip_shapes(unet)
        count = self.count(unet)
        self.numbers = list(self.default(unet) if numbers is None else numbers)
        wrong = [n for n in self.numbers if not 0 <= n < count]
        if wrong or not self.numbers or len(set(self.numbers)) < len(self.numbers):
            raise ValueError(
                f"model.init_args.places is {self.numbers}; expected different numbers from 0 to "
                f"{count - 1}, the places of this U-Net"
            )
        self._odd_up = unet.config.downsample_padding == 1

    @abstractmethod
    def count(self, unet: Any) -> int:
        """Return the number of places."""

    @abstractmethod
    def default(self, unet: Any) -> list[int]:
        """Return the default places."""

    @abstractmethod
    def name(self, number: int) -> str:
        """Return the name of a place in checkpoints."""

    @abstractmethod
    def skip_of(self, number: int) -> int:
        """Return the number of the skip connection with the place's width and size."""

    @abstractmethod
    def features(self, read: Features) -> dict[str, Tensor]:
        """Return the features of a U-Net's down path, by place."""

    @abstractmethod
    def predict(
        self,
        denoiser: UNet2D,
        z: Tensor,
        t: Tensor,
        condition: Condition,
        added: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the denoiser's raw output, with ``added`` at the places."""

    @property
    def widths(self) -> dict[str, int]:
        """Number of channels at each place."""
        return {self.name(n): self.skips[self.skip_of(n)][0] for n in self.numbers}

    def sizes(self, size: Size) -> dict[str, Size]:
        """Return (H, W) at each place for a latent of this size."""
        return {
            self.name(n): self._halved(size, self.skips[self.skip_of(n)][1]) for n in self.numbers
        }

    def _halved(self, size: Size, times: int) -> Size:
        # Odd sides are rounded as the U-Net pads them.
        height, width = size
        for _ in range(times):
            height, width = (height + self._odd_up) // 2, (width + self._odd_up) // 2
        return height, width


class Skips(Attachment):
    """Skip connections, numbered as in diffusers: 0 is the first convolution's.

    By default the last one of each resolution and, if those are fewer than four, the ones before
    the deepest: 2, 5, 8, 11 for Stable Diffusion, 2, 5, 7, 8 for SDXL.
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
    """Outputs of the down blocks and, as the last number, of the middle block.

    Skip connections stay unchanged. By default all blocks.
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
    """Return the places by name.

    Args:
        attach: ``skip`` or ``block_out``.
        denoiser: The denoiser.
        numbers: Numbers of the places.

    Raises:
        ValueError: If a name or number is unknown, or for block outputs of a compiled network.
    """
    if attach == "skip":
        return Skips(denoiser.unet, numbers)
    if attach != "block_out":
        raise ValueError(f"model.init_args.attach is {attach!r}; expected skip or block_out")
    if denoiser.flags.compile:
        raise ValueError(
            "model.init_args.attach is block_out, which has no effect on a compiled network: set "
            "compile in model.init_args.denoiser.init_args.flags to false"
        )
    return Blocks(denoiser.unet, numbers)


def skip_shapes(unet: Any) -> list[tuple[int, int]]:
    """Return (channels, number of halvings) of each of a U-Net's skip connections."""
    shapes, halved = [(unet.conv_in.out_channels, 0)], 0
    for block in unet.down_blocks:
        shapes += [(resnet.out_channels, halved) for resnet in block.resnets]
        for downsampler in block.downsamplers or ():
            halved += 1
            shapes.append((downsampler.out_channels, halved))
    return shapes


@torch.no_grad()
def time_embedding(unet: Any, t: Tensor, condition: Condition) -> Tensor:
    """Return a U-Net's embedding (B, E) of the timestep and, for SDXL, of the sizes.

    Args:
        unet: The U-Net.
        t: (B,) timesteps.
        condition: The condition; ``noise_level`` is ignored.
    """
    dtype = next(unet.parameters()).dtype
    embedded: Tensor = unet.time_embedding(unet.time_proj(t).to(dtype))
    if not hasattr(unet, "get_aug_embed"):  # video networks have no other embedding
        return embedded
    also = {"text_embeds": condition.pooled, "time_ids": condition.sizes}
    text = {"encoder_hidden_states": condition.text, "added_cond_kwargs": also}
    more: Tensor | None = unet.get_aug_embed(emb=embedded, **text)
    return embedded if more is None else embedded + more


def _ends(unet: Any) -> list[int]:
    """Return the number of the last skip connection of each down block, which is its output."""
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
