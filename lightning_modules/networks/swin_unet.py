"""ResShift's Swin U-Net.

Yue et al., NeurIPS 2023 (arXiv 2307.12348), with the blocks of Swin (Liu et al., ICCV 2021; arXiv
2103.14030) between convolutions, and with GroupNorm. It has 118,593,583 parameters with the sizes
of the release; tensor names are those of the released files.

Differs from the paper in: ``patch``, and the mask of new trainings, see ``SwinUNet``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from degradations.device import copy_to
from files.numbers import PositiveFloat, PositiveInt
from lightning_modules.networks.layers import check_sides, conv3x3, sinusoids, zeroed
from lightning_modules.networks.running import Running

Mask = Literal["correct", "released"]
_APART = -100.0  # added to the logits of pairs of positions that are masked
_GROUPS = 32
_CONDITION_WIDTH = 16  # of the first layer of those that downsample a larger condition
_ATTENTION_MASK = ".attn_mask"  # in released files; shows which mask the weights need
_PLACES = ".relative_position_index"  # in released files; follows from sizes
_MARK = "released_mask"  # a tensor in weights that need the released mask


class Projection(nn.Module):
    """A 1x1 convolution.

    Args:
        inputs: Input channels.
        outputs: Output channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h, w)."""
        return self.proj(x)


class SwinLayer(nn.Module):
    """Two Swin blocks between two projections, without a residual around them.

    The second block is shifted.

    Args:
        channels: Input and output channels.
        width: Channels of the blocks.
        heads: Attention heads.
        window: Side of the windows.
        resolution: Side of the layer's input in training.
    """

    def __init__(self, channels: int, width: int, heads: int, window: int, resolution: int) -> None:
        super().__init__()
        self.patch_embed = Projection(channels, width)
        # A window that covers the whole input has no neighbour to shift towards.
        shift = window // 2 if resolution > window else 0
        self.blocks = nn.Sequential(
            SwinBlock(width, heads, window, 0), SwinBlock(width, heads, window, shift)
        )
        self.patch_unembed = Projection(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w), with sides divisible by the window, to the same shape."""
        return self.patch_unembed(self.blocks(self.patch_embed(x)))


class SwinBlock(nn.Module):
    """Attention within windows, then an MLP, each added to its input.

    Args:
        width: Channels.
        heads: Attention heads.
        window: Side of the windows.
        shift: Number of pixels by which the windows are shifted along both axes.
    """

    mask: Mask = "correct"

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = group_norm(width)
        self.attn = WindowAttention(width, heads, window)
        self.norm2 = group_norm(width)
        self.mlp = MLP(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w), with sides divisible by the window, to the same shape."""
        y = self.norm1(x)
        h, w = y.shape[-2:]
        mask = None
        if self.shift:  # shifting the windows is rolling the image under them
            y = y.roll((-self.shift, -self.shift), (2, 3))
            mask = _mask(self.mask, h, w, self.window, self.shift, y.device, y.dtype)
        y = from_windows(self.attn(to_windows(y, self.window), mask), h, w, self.window)
        if self.shift:
            y = y.roll((self.shift, self.shift), (2, 3))
        x = x + y
        return x + self.mlp(self.norm2(x))


class WindowAttention(nn.Module):
    """Attention among the pixels of a window, with a learned bias for each relative position.

    Args:
        width: Channels.
        heads: Number of heads, which share the channels.
        window: Side of a window.
    """

    places: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        # For each pair of a window's N pixels, the row of the table with their relative position.
        axis = torch.arange(window)
        row = axis.repeat_interleave(window)
        column = axis.repeat(window)
        rows = row[:, None] - row[None, :] + window - 1
        columns = column[:, None] - column[None, :] + window - 1
        places = rows * (2 * window - 1) + columns
        self.register_buffer("places", places, persistent=False)  # (N, N)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, windows, N, C) to the same shape.

        Args:
            x: (B, windows, N, C).
            mask: (windows, N, N), added to the logits.
        """
        B, windows, N, C = x.shape
        # The windows of an image are further heads, so that all images share one bias.
        parts = self.qkv(x).view(B, windows, N, 3, self.heads, C // self.heads)
        q, k, v = parts.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        bias = self.relative_position_bias_table[self.places].permute(2, 0, 1).to(q.dtype)
        if mask is None:
            bias = bias.expand(windows, -1, -1, -1)
        else:
            bias = bias + mask[:, None].to(q.dtype)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.flatten(0, 1)[None])
        y = y.reshape(B, windows, self.heads, N, -1).transpose(2, 3)
        return self.proj(y.reshape(B, windows, N, C))


class MLP(nn.Module):
    """Two 1x1 convolutions with a GELU between them.

    Args:
        width: Input and output channels.
        hidden: Channels between the convolutions.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        return self.fc2(functional.gelu(self.fc1(x)))


def to_windows(x: Tensor, window: int) -> Tensor:
    """Cut (B, C, h, w) into (B, windows, window ** 2, C), row by row."""
    B, C, h, w = x.shape
    x = x.view(B, C, h // window, window, w // window, window)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(B, -1, window**2, C)


def from_windows(x: Tensor, h: int, w: int, window: int) -> Tensor:
    """Undo ``to_windows``: return (B, C, h, w)."""
    B, _, _, C = x.shape
    x = x.view(B, h // window, w // window, window, window, C)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(B, C, h, w)


def wrap_mask(h: int, w: int, window: int, shift: int) -> Tensor:
    """Return (windows, N, N): -100 for pixels that are neighbours only by wrapping, else 0."""

    def wrapped(n: int) -> Tensor:  # 1 for the positions that came from the other border
        return (torch.arange(n) >= n - shift).float()

    # Four regions: wrapped along both axes, one, or none. Pixels attend within their own region.
    region = (2 * wrapped(h)[:, None] + wrapped(w)[None, :]).view(1, 1, h, w)
    regions = to_windows(region, window)[0, :, :, 0]
    return _APART * (regions[:, :, None] != regions[:, None, :]).float()


def released_mask(h: int, w: int, window: int, shift: int) -> Tensor:
    """Return (windows, N, N) as in ResShift's code, which masks columns of the last window row."""
    across = w // window
    mask = torch.zeros(h // window * across, window**2, window**2)
    is_left = (torch.arange(window) < window - shift).repeat(window)
    mask[-across:] = _APART * (is_left[:, None] != is_left[None, :]).float()
    return mask


@torch.compiler.assume_constant_result  # else compiled code would make and copy it each time
def _mask(*key: Any) -> Tensor:
    """Return a mask; the arguments are those of ``_cached_mask``, which cannot be compiled."""
    return _cached_mask(*key)


@functools.lru_cache(maxsize=8)  # few, since masks of large images are large
def _cached_mask(
    kind: Mask, h: int, w: int, window: int, shift: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return the mask of shifted windows on a device."""
    make = wrap_mask if kind == "correct" else released_mask
    with torch.inference_mode(False):  # a later training step may get it, too
        return copy_to(make(h, w, window, shift), device, dtype)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm of 32 groups, or of the most that divide ``channels`` and 32."""
    return nn.GroupNorm(math.gcd(_GROUPS, channels), channels)


class SwinUNet(Running):
    """Predict from a noisy latent, its timestep and the LR image.

    Shifted windows hold pixels that are neighbours only by wrapping. The ``correct`` mask, Swin's,
    keeps them apart; the ``released`` one, of ResShift's code, only columns in the last row of
    windows. New trainings have the correct mask, and loaded weights that with which they were
    trained: weights of the released one have a mark, which is a tensor of the state dict.

    Its memory layout is an argument of the method, ``channels_last``.

    Args:
        channels: Channels of the latent, for input and output.
        width: Channels of the first level.
        multipliers: Factors of ``width``, one per level; each level halves the sides.
        blocks: Residual blocks per level on the way down; the way up has one more.
        size: Side of the latents in training; levels that one window covers are not shifted.
        swin_width: Channels of the Swin blocks.
        heads: Attention heads of the Swin blocks.
        window: Side of the attention windows.
        condition_factor: Side of the LR image over that of the latent, a power of two; below 1,
            as for diffusion in pixels, the LR image is enlarged by bicubic interpolation first.
        patch: Side of the squares of the latent that become one position, with their values as
            channels. Above 1 for diffusion in pixels, which it makes about patch^2 times as fast.
    """

    regions = ("ResBlock", "SwinLayer")
    any_size = False  # windows of unknown sizes take the compiler more than ten minutes

    def __init__(
        self,
        channels: int = 3,
        width: int = 160,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        blocks: int = 2,
        size: int = 64,
        swin_width: int = 192,
        heads: int = 6,
        window: int = 8,
        condition_factor: PositiveFloat = 1,
        patch: PositiveInt = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(channels_last=False, **kwargs)
        halvings = int(math.log2(condition_factor))
        self.latent = channels
        self.trained_with = {"size": size}  # kept with the weights, whose shapes do not show it
        self.width = width
        self.window = window
        self.condition_factor = condition_factor
        self.patch = patch
        self.divisor = patch * window * 2 ** (len(multipliers) - 1)  # of the latent's sides
        embedding = 4 * width
        self.time_embed = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.feature_extractor = _to_latent_size(halvings)
        condition_channels = 3 if halvings <= 0 else _CONDITION_WIDTH * 2**halvings
        resolution = size // patch

        def residual(inputs: int, outputs: int) -> ResBlock:
            return ResBlock(inputs, outputs, embedding)

        def swin(width: int) -> SwinLayer:
            # `resolution` is that of the current level; the loops below change it.
            return SwinLayer(width, swin_width, heads, window, resolution)

        current = width * multipliers[0]  # channels after the last layer so far
        self.input_blocks = nn.ModuleList()
        inputs = (channels + condition_channels) * patch**2
        self.input_blocks.append(Steps(conv3x3(inputs, current)))
        skips = [current]
        for level, factor in enumerate(multipliers):
            for number in range(blocks):
                steps = Steps(residual(current, width * factor))
                current = width * factor
                if number == 0:
                    steps.append(swin(current))
                self.input_blocks.append(steps)
                skips.append(current)
            if level < len(multipliers) - 1:
                self.input_blocks.append(Steps(Downsample(current)))
                skips.append(current)
                resolution //= 2
        self.middle_block = Steps(
            residual(current, current), swin(current), residual(current, current)
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(multipliers))):
            for number in range(blocks + 1):
                steps = Steps(residual(current + skips.pop(), width * multipliers[level]))
                current = width * multipliers[level]
                if number == 0:
                    steps.append(swin(current))
                if level and number == blocks:
                    steps.append(Upsample(current))
                    resolution *= 2
                self.output_blocks.append(steps)
        last = zeroed(conv3x3(current, channels * patch**2))
        self.out = nn.Sequential(group_norm(current), nn.SiLU(), last)
        # The mask follows from the weights, also if torch's own load_state_dict loads them.
        self.register_load_state_dict_pre_hook(_before_loading)  # type: ignore[no-untyped-call]
        self.prepare_to_run()

    def set_mask(self, mask: Mask) -> None:
        """Set the mask of all Swin blocks, and mark the weights if they need the released one."""
        for module in self.modules():
            if isinstance(module, SwinBlock):
                module.mask = mask
        if mask == "released":
            device = next(self.parameters()).device
            self.register_buffer(_MARK, torch.ones((), dtype=torch.uint8, device=device))
        elif hasattr(self, _MARK):
            delattr(self, _MARK)

    def official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensors of a released file, as ``from_official``."""
        return from_official(tensors)

    def recognise(self, names: Iterable[str]) -> None:
        """Use the mask with which weights were trained.

        Args:
            names: Names of their tensors.
        """
        self.set_mask("released" if _MARK in names else "correct")

    def forward(self, x: Tensor, t: Tensor, lr: Tensor) -> Tensor:
        """Return the prediction, (B, channels, h, w).

        Args:
            x: (B, channels, h, w), scaled by the process.
            t: (B,) timesteps 0 .. T - 1 of training.
            lr: (B, 3, H, W) in [-1, 1], ``condition_factor`` times the sides of x.

        Raises:
            ValueError: If a side of x is not divisible by ``divisor``, or the LR image is not
                ``condition_factor`` times as large as x.
        """
        check_sides(x, self.divisor, self)
        embedded = self.time_embed(sinusoids(t, self.width).to(x.dtype))
        condition = self.feature_extractor(lr)
        if condition.shape[-2:] != x.shape[-2:]:
            h, w = lr.shape[-2:]
            raise ValueError(
                f"the latent is {x.shape[-2]}x{x.shape[-1]}, and LR {h}x{w}: set the network's "
                f"condition_factor to {h / x.shape[-2]:g}"
            )
        x = functional.pixel_unshuffle(torch.cat([x, condition], dim=1), self.patch)
        skips = []
        for block in self.input_blocks:
            x = self.run_block(block, x, embedded)
            skips.append(x)
        x = self.run_block(self.middle_block, x, embedded)
        for block in self.output_blocks:
            x = self.run_block(block, torch.cat([x, skips.pop()], dim=1), embedded)
        return functional.pixel_shuffle(self.out(x), self.patch)


def from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a released file to ours, and drop buffers that follow from sizes.

    Its attention masks become the mark of the mask that the weights were trained with.

    Args:
        tensors: The tensors of the file.
    """
    state = {}
    for name, tensor in tensors.items():
        if name.endswith(_ATTENTION_MASK):
            if not _is_correct(tensor):
                state[_MARK] = torch.ones((), dtype=torch.uint8)
        elif not name.endswith(_PLACES):
            state[name] = tensor
    return state


def _before_loading(network: SwinUNet, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Use the mask of the weights that torch is about to load."""
    names = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
    if names:  # none if only other parts are loaded
        network.recognise(names)


def _is_correct(mask: Tensor) -> bool:
    """Return whether a file's attention mask, (windows, N, N), is the ``correct`` one.

    Files have the mask of square latents; any other counts as the released one.
    """
    if mask.ndim != 3:
        return False
    window = math.isqrt(mask.shape[1])
    side = window * math.isqrt(mask.shape[0])
    expected = wrap_mask(side, side, window, window // 2)
    return torch.equal(mask.float().cpu(), expected)


class Steps(nn.Sequential):
    """Layers in sequence; the residual blocks also get the embedded timestep."""

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:  # type: ignore[override]
        """Map x (B, C, h, w), with the embedded timesteps (B, E)."""
        for layer in self:
            x = layer(x, embedded) if isinstance(layer, ResBlock) else layer(x)
        return x


class ResBlock(nn.Module):
    """Two convolutions around a scale and shift by the timestep, and a shortcut.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        embedding: Size of the embedded timestep.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(group_norm(inputs), nn.SiLU(), conv3x3(inputs, outputs))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * outputs))
        self.out_layers = nn.Sequential(
            group_norm(outputs),
            nn.SiLU(),
            nn.Identity(),  # a dropout of 0 in upstream
            zeroed(conv3x3(outputs, outputs)),
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Map x (B, inputs, h, w) to (B, outputs, h, w), with embedded timesteps (B, E)."""
        scale, shift = self.emb_layers(embedded)[:, :, None, None].chunk(2, dim=1)
        # Scale and shift come between the first of these layers, a norm, and the others.
        h = self.out_layers[0](self.in_layers(x)) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[1:](h)


class Downsample(nn.Module):
    """Halve the sides by a convolution.

    Args:
        channels: Input channels.
        outputs: Output channels; as many by default.
    """

    def __init__(self, channels: int, outputs: int | None = None) -> None:
        super().__init__()
        self.op = conv3x3(channels, outputs or channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, outputs, h / 2, w / 2)."""
        return self.op(x)


class Upsample(nn.Module):
    """Double the sides: nearest neighbour, then a convolution.

    Args:
        channels: Input and output channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, 2h, 2w)."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


def _to_latent_size(halvings: int) -> nn.Module:
    """Return the layers that bring the LR image to the size of the latent."""
    if halvings < 0:
        return nn.Upsample(scale_factor=2.0**-halvings, mode="bicubic")
    layers = nn.Sequential()
    channels = 3
    width = _CONDITION_WIDTH
    for _ in range(halvings):
        layers.extend([conv3x3(channels, width), nn.SiLU(), Downsample(width, 2 * width)])
        width *= 2
        channels = width
    return layers
