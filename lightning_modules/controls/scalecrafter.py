"""ScaleCrafter, and the change to the U-Net that it needs.

He et al., ICLR 2024 (arXiv 2310.07702). In images larger than it was trained for, a network repeats
objects, since the receptive field of its convolutions is too small. Re-dilation dilates them
without changing their weights.

f     factor of a layer's receptive field; D = ceil(f) is its dilation
tau   steps in which layers are dilated

Differs from the paper in: dispersed kernels, 3x3 weights mapped to 5x5 by a fixed matrix, are left
out; the released settings never enable them.

A training-free method for larger images may change layers of the network at some steps. Such a
change is a ``NetworkPatch``, an argument of the sampling method. It is applied and undone around
each call, also after an exception, so that weights, names and checkpoints never change.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from files.numbers import NonNegativeInt
from lightning_modules.backbone.condition import Condition, guided, joined
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.latents import refuse_compiled
from lightning_modules.noise import Size

_ENDS = ("conv_in", "conv_out")  # never dilated


@dataclass(frozen=True)
class Step:
    """A sampling step, for a patch.

    Args:
        number: Number of the step, counted from 0 at the sampler's noisiest timestep, also if
            sampling starts in between.
        count: Number of steps from pure noise.
        size: (h, w) of the latent.
        trained: (h, w) of the latents that the base was trained for.
    """

    number: int
    count: int
    size: Size
    trained: Size

    @property
    def growth(self) -> float:
        """Number of positions, relative to what the base was trained for."""
        return math.prod(self.size) / math.prod(self.trained)


class NetworkPatch(ABC):
    """Base of the patches."""

    def check(self, denoiser: UNet2D) -> None:
        """Raise if the base does not support the patch.

        Args:
            denoiser: The base.

        Raises:
            ValueError: If the base is compiled.
        """
        refuse_compiled(denoiser, f"model.init_args.patch {type(self).__name__}")

    @abstractmethod
    def applied(self, denoiser: UNet2D, step: Step) -> AbstractContextManager[None]:
        """Change the network within the context.

        Args:
            denoiser: The base.
            step: Current step.
        """

    def guided(
        self,
        denoiser: UNet2D,
        step: Step,
        predict: Callable[[Tensor, Tensor, Condition], Tensor],
        z: Tensor,
        t: Tensor,
        conditions: tuple[Condition, Condition],
        guidance: float,
    ) -> Tensor:
        """Return the network's raw output with guidance; a patch may have its own rule.

        Args:
            denoiser: The base.
            step: Current step.
            predict: Calls the network.
            z: (B, C, ...), noisy.
            t: (B,).
            conditions: With and without the caption.
            guidance: Strength of classifier-free guidance; 1 for none.
        """
        with self.applied(denoiser, step):
            return guided(predict, z, t, *conditions, guidance)

    @property
    def options(self) -> dict[str, str | int | float]:
        """Settings that change outputs; they label results."""
        return {"patch": type(self).__name__}


@dataclass(frozen=True)
class FreeU:
    """Factors of FreeU (Si et al., CVPR 2024; arXiv 2309.11497), as in ScaleCrafter's release.

    The first factors are for backbone features with the most channels, the second for those with
    half as many.

    Args:
        s1: Factor of the skip connections' low frequencies beside the widest features.
        s2: The same beside features of half that width.
        b1: Factor of half of the channels of the widest features.
        b2: The same of features of half that width.
    """

    s1: float = 0.9
    s2: float = 0.2
    b1: float = 1.1
    b2: float = 1.2


class ScaleCrafter(NetworkPatch):
    """Re-dilation of 3x3 convolutions.

    Args:
        factors: Factor of all 3x3 convolutions in a module, by its name, such as ``down_blocks.2``
            or ``up_blocks.0.upsamplers``. The longest name that holds a layer counts. 1 for layers
            that stay unchanged.
        tau: Steps in which layers are dilated.
        progressive: Reduce factors over the steps, to max(ceil(f (tau - i) / tau), 2) at step i.
        damped_steps: Steps of noise-damped guidance, which costs one more call: the prediction
            without a text comes from a network in which ``damped_without`` stays unchanged.
        damped_without: Names of modules.
        freeu: FreeU at all steps, as in the released scripts; ``null`` for none.
    """

    def __init__(
        self,
        factors: dict[str, float],
        tau: NonNegativeInt = 20,
        progressive: bool = False,
        damped_steps: NonNegativeInt = 0,
        damped_without: Sequence[str] = ("up_blocks.3",),
        freeu: FreeU | None = None,
    ) -> None:
        self.factors = dict(factors)
        self.tau = tau
        self.progressive = progressive
        self.damped_steps = damped_steps
        self.damped_without = tuple(damped_without)
        self.freeu = freeu

    def check(self, denoiser: UNet2D) -> None:
        """Raise if the base does not support the patch.

        Raises:
            ValueError: As in ``NetworkPatch.check``; or for a name without 3x3 convolutions to
                dilate.
        """
        super().check(denoiser)
        layers = convolutions(denoiser.unet)
        for name in (*self.factors, *(self.damped_without if self.damped_steps else ())):
            if not any(_within(layer, name) for layer in layers):
                raise ValueError(
                    f"model.init_args.patch names {name}, where this U-Net has no 3x3 convolution "
                    f"to dilate: it has {', '.join(sorted(layers)[:3])}, ..."
                )

    @contextmanager
    def applied(self, denoiser: UNet2D, step: Step) -> Iterator[None]:
        """As ``NetworkPatch.applied``."""
        with self._changed(denoiser, step):
            yield

    def guided(
        self,
        denoiser: UNet2D,
        step: Step,
        predict: Callable[[Tensor, Tensor, Condition], Tensor],
        z: Tensor,
        t: Tensor,
        conditions: tuple[Condition, Condition],
        guidance: float,
    ) -> Tensor:
        """Return the guided output; noise-damped in the first ``damped_steps``.

        The dilated network places objects better, but removes noise worse. It then gives only the
        difference that the caption makes, and a less dilated one the prediction without it.
        """
        if step.number >= self.damped_steps:
            return super().guided(denoiser, step, predict, z, t, conditions, guidance)
        text, nothing = conditions
        with self._changed(denoiser, step, undilated=self.damped_without):
            less_dilated = predict(z, t, nothing)
        with self._changed(denoiser, step):
            raw = predict(torch.cat([z, z]), torch.cat([t, t]), joined(nothing, text))
        without_text, with_text = raw.chunk(2)
        return less_dilated + guidance * (with_text - without_text)

    def factor_at(self, step: int, full: float) -> float:
        """Return the factor of a layer's receptive field at a step; 1 for no dilation.

        Args:
            step: Step, from 0.
            full: The layer's f, that of the first step.
        """
        if step >= self.tau or full == 1:
            return 1.0
        if not self.progressive:
            return full
        # Not below 2 before tau, since 1 would be no dilation.
        return max(math.ceil(full * (self.tau - step) / self.tau), 2)

    @contextmanager
    def _changed(
        self, denoiser: UNet2D, step: Step, undilated: Sequence[str] = ()
    ) -> Iterator[None]:
        """Dilate the network's layers, and apply FreeU, within the context.

        Args:
            denoiser: The base.
            step: Current step.
            undilated: Names of layers, and of blocks of them, that stay as they are.
        """
        layers = convolutions(denoiser.unet)
        with ExitStack() as stack:
            if self.freeu is not None:
                stack.enter_context(_freeu(denoiser.unet, self.freeu))
            for name, full in _factor_of_each(layers, self.factors).items():
                factor = self.factor_at(step.number, full)
                if factor != 1 and not any(_within(name, block) for block in undilated):
                    stack.enter_context(redilated(layers[name], factor))
            yield

    @property
    def options(self) -> dict[str, str | int | float]:
        """As ``NetworkPatch.options``."""
        factors = " ".join(f"{name}={factor:g}" for name, factor in self.factors.items())
        options = super().options
        options["factors"] = factors
        options["tau"] = self.tau
        if self.progressive:
            options["progressive"] = "true"
        if self.damped_steps:
            options["damped"] = f"{self.damped_steps} {' '.join(self.damped_without)}"
        if self.freeu is not None:
            options["freeu"] = " ".join(f"{value:g}" for value in astuple(self.freeu))
        return options


def convolutions(unet: Any) -> dict[str, nn.Conv2d]:
    """Return a U-Net's 3x3 convolutions over positions, except its first and last, by name."""
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and name not in _ENDS
    }


@contextmanager
def redilated(layer: nn.Conv2d, factor: float) -> Iterator[None]:
    """Dilate a convolution by ``factor`` within the context, keeping its output's size.

    For a fractional factor the input is resized to match the dilation and the output is resized
    back, both bilinearly.

    Args:
        layer: A 3x3 convolution, padded by 1.
        factor: Above 1.
    """
    dilation = math.ceil(factor)
    stretch = dilation / factor
    original = (layer.dilation, layer.padding)
    sizes: list[torch.Size] = []
    handles = []

    def stretch_input(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        sizes.append(inputs[0].shape[-2:])
        return (_resized(inputs[0], [round(side * stretch) for side in sizes[-1]]),)

    def restore_output(_: Any, __: Any, output: Tensor) -> Tensor:
        # The output's side without dilation, of a 3x3 convolution padded by 1.
        sides = zip(sizes.pop(), layer.stride, strict=True)
        return _resized(output, [(side - 1) // stride + 1 for side, stride in sides])

    try:
        if stretch != 1:
            handles = [
                layer.register_forward_pre_hook(stretch_input),
                layer.register_forward_hook(restore_output),
            ]
        layer.dilation = layer.padding = (dilation, dilation)
        yield
    finally:
        layer.dilation, layer.padding = original
        for handle in handles:
            handle.remove()


def _resized(x: Tensor, size: list[int]) -> Tensor:
    """Resize (B, C, h, w) bilinearly."""
    return functional.interpolate(x, size, mode="bilinear", align_corners=False)


@contextmanager
def _freeu(unet: Any, freeu: FreeU) -> Iterator[None]:
    """Apply FreeU to a U-Net within the context."""
    with ExitStack() as stack:
        for layer, width, b, s in _freeu_blocks(unet, freeu):
            handle = layer.register_forward_pre_hook(partial(_freeu_input, width, b, s))
            stack.callback(handle.remove)
        yield


def _freeu_blocks(unet: Any, freeu: FreeU) -> Iterator[tuple[nn.Module, int, float, float]]:
    """Yield the residual blocks of the up path to change: block, backbone channels, b and s."""
    widest = max(unet.config.block_out_channels)
    chosen = {widest: (freeu.b1, freeu.s1), widest // 2: (freeu.b2, freeu.s2)}
    width = unet.config.block_out_channels[-1]  # of the middle block's output
    for up in unet.up_blocks:
        for layer in up.resnets:
            if width in chosen:
                yield (layer, width, *chosen[width])
            width = layer.out_channels


def _freeu_input(
    width: int, b: float, s: float, _: Any, inputs: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Scale a block's input: the backbone's features, ``width`` channels, then the skip's."""
    from diffusers.utils.torch_utils import fourier_filter

    backbone = inputs[0][:, :width]
    skip = fourier_filter(inputs[0][:, width:], threshold=1, scale=s)
    half = width // 2
    x = torch.cat([backbone[:, :half] * b, backbone[:, half:], skip], 1)
    return x, *inputs[1:]


def _factor_of_each(
    layers: Mapping[str, nn.Conv2d], factors: Mapping[str, float]
) -> dict[str, float]:
    """Return the factor of each layer that is named; that of the innermost name holds."""
    factor_of = {}
    for layer in layers:
        names = [name for name in factors if _within(layer, name)]
        if names:
            factor_of[layer] = factors[max(names, key=len)]
    return factor_of


def _within(layer: str, name: str) -> bool:
    """Return whether a layer is the module of this name, or inside it."""
    return layer == name or layer.startswith(f"{name}.")
