"""How a network runs: memory layout, activations computed again, compiled, in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from degradations.compiling import Shapes, allow_kinds

T = TypeVar("T")


class Running(nn.Module):
    """Base class of networks that take how they run; no setting changes outputs.

    A subclass passes its ``**kwargs`` here, calls its blocks, which draw no random numbers, by
    ``run_block``, and ends its constructor with ``prepare_to_run``. It fixes a setting that does
    not help, as ``channels_last=False`` without convolutions, so that the command line does not
    offer it.

    Args:
        channels_last: Keep weights in the memory layout that cuDNN prefers for convolutions;
            activations follow.
        checkpointing: Recompute the blocks in the backward pass instead of storing their
            activations: less memory, a third more time.
        compile: Compile with ``torch.compile`` at the first call.
    """

    # Classes of the parts that are compiled instead of the whole network; equal parts share a form.
    regions: ClassVar[tuple[str, ...]] = ()
    # Whether one compiled form serves images of all sizes; otherwise each of the first few has one.
    any_size: ClassVar[bool] = True

    def __init__(
        self, channels_last: bool = False, checkpointing: bool = False, compile: bool = False
    ) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.checkpointing = checkpointing
        self.compiled = compile
        self._shapes = Shapes()

    def prepare_to_run(self) -> None:
        """Set the memory layout and compile; called at the end of a constructor."""
        if self.channels_last:
            to_channels_last(self)
        if self.compiled:
            allow_kinds()
            self.compile_in_place()

    def compile_in_place(self) -> None:
        """Compile the parts of ``regions``, or else the whole; names of tensors stay."""
        parts = [part for part in self.modules() if type(part).__name__ in self.regions]
        for part in parts or [self]:
            # None: from the second size on, torch compiles one form for all. False: one per size.
            part.compile(dynamic=None if self.any_size else False)

    def __call__(self, *inputs: Any, **more: Any) -> Any:
        """Run the network; uncompiled for sizes beyond the few that are compiled."""
        if not self.compiled or self.any_size or self._shapes.take(*inputs):
            return super().__call__(*inputs, **more)
        with torch.compiler.set_stance("force_eager"):
            return super().__call__(*inputs, **more)

    def run_block(self, block: Callable[..., Any], *inputs: Any, **more: Any) -> Any:
        """Call a block; with ``checkpointing``, the backward pass calls it again.

        Args:
            block: The block.
            *inputs: Its arguments.
            **more: Its arguments by name.
        """
        if self.checkpointing:
            # Blocks draw no random numbers, so the generator's state need not be kept.
            return checkpointed(block, *inputs, draws=False, **more)
        return block(*inputs, **more)


def to_channels_last(network: nn.Module) -> None:
    """Keep the weights of two-dimensional convolutions in channels-last layout.

    Args:
        network: The network; changed in place.
    """
    for parameter in network.parameters():  # not `to`, which refuses 3-D convolutions
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def checkpointed(block: Callable[..., Any], *inputs: Any, draws: bool = True, **more: Any) -> Any:
    """Call a block without storing its activations; the backward pass calls it again.

    Args:
        block: The block.
        *inputs: Its arguments.
        draws: Whether it draws random numbers, which have to be the same again.
        **more: Its arguments by name.
    """
    if not torch.is_grad_enabled():
        return block(*inputs, **more)
    return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=draws, **more)


def freeze(part: nn.Module) -> None:
    """Never train a part again: no gradients of its weights, evaluation mode.

    Args:
        part: The part; changed in place.
    """
    part.requires_grad_(False).eval()


class Frozen(nn.Module):
    """Base class of parts that are never trained: they stay in evaluation mode."""

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the model does."""
        return super().train(False)


class Float32(nn.Module):
    """Base class of autoencoders, whose weights stay in float32 in bf16-true and 16-true."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move all tensors, but keep their types; torch's hook for ``to`` and the like."""

        # `fn` may change device or type; only the device is taken. Otherwise rounding would flip
        # codes, which are signs near zero, and decoders would add an error that no denoiser
        # corrects. Images are float32 anyway.
        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        return super()._apply(moved, recurse)  # type: ignore[no-untyped-call]


def without_fp16(network: Callable[[Tensor], T], x: Tensor) -> T:
    """Apply a network, in float32 under fp16 autocast, whose largest number is 65,504.

    Args:
        network: The network, with float32 weights.
        x: Its input, of any shape.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
        with torch.autocast(device, enabled=False):
            return network(x.float())
    return network(x)
