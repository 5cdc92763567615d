"""What a network of one pass needs, measured once on small images: surroundings, memory, precision.

All of it follows from the network alone, not from the images that are enlarged, so that an output
does not depend on those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

FARTHEST = 80  # LR pixels
STRIP = 16  # width of the images in which that is measured
SMALL = 32  # LR pixels; side of the image whose memory is counted
PICTURE = 64  # side of the picture that is enlarged in both precisions
MEAN_LEVELS, MOST_LEVELS = 0.5, 1.5  # of 255: the mean difference, and that of 99 % of the values


@torch.no_grad()
def reach_of(enlarge: Callable[[Tensor], Tensor], device: torch.device) -> int | None:
    """Return how far a network looks: an output depends on LR pixels within this distance alone.

    A line of the image is set to NaN, and every output that depends on it becomes NaN.

    Args:
        enlarge: The network: (1, 3, h, w) in [0, 1] to (1, 3, H, W).
        device: Where it runs.

    Returns:
        LR pixels; None if it looks at the whole image, or farther than ``FARTHEST``.
    """
    farthest = 0
    for axis in (2, 3):
        shape = [1, 3, STRIP, STRIP]
        shape[axis] = 2 * FARTHEST
        lr = torch.full(shape, 0.5, device=device)
        lr.select(axis, FARTHEST).fill_(torch.nan)
        with torch.backends.cudnn.flags(enabled=False):  # its fast algorithms mix distant pixels
            is_nan = enlarge(lr).isnan()
        depends = is_nan.transpose(2, axis).any(3).any(1)[0]  # along this axis
        places = depends.nonzero().flatten().tolist()
        if not places or places[0] == 0 or places[-1] == len(depends) - 1:
            return None
        factor = len(depends) / (2 * FARTHEST)
        before = FARTHEST - int(places[0] / factor)
        after = int(places[-1] / factor) - FARTHEST
        farthest = max(farthest, before, after)
    return farthest


@torch.no_grad()
def bytes_per_pixel(
    network: nn.Module, enlarge: Callable[[Tensor], Tensor], device: torch.device
) -> float:
    """Return the memory of a pass for each LR pixel: twice what the largest layer reads and writes.

    Args:
        network: The network.
        enlarge: As of ``reach_of``; calls the network.
        device: Where it runs.
    """
    largest = 0

    def count(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        nonlocal largest
        tensors = [x for x in (*inputs, output) if isinstance(x, Tensor)]
        largest = max(largest, sum(x.nbytes for x in tensors))

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    try:
        enlarge(torch.full((1, 3, SMALL, SMALL), 0.5, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return 2 * largest / SMALL**2


def computes_in_bf16() -> bool:
    """Return whether this machine's CPU has instructions for products in bfloat16."""
    return any(_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))


def is_slow_in_bf16() -> bool:
    """Return whether this machine's CPU is many times slower in bfloat16 than in float32.

    One with AVX2 alone was 33 times slower in a convolution, 36 times in a linear layer. With
    AVX-512 oneDNN has kernels of its own for bfloat16, even where the CPU has no such products.
    """
    found = _capabilities()
    return found.get("architecture") == "x86_64" and not found.get("avx512_bw")


def _capabilities() -> Mapping[str, Any]:
    """Return the instruction sets of this machine's CPU; none where torch cannot tell."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


@torch.no_grad()
def keeps_quality_in_bf16(enlarge: Callable[[Tensor], Tensor]) -> bool:
    """Return whether a network's output on the CPU is nearly the same in bfloat16.

    Args:
        enlarge: As of ``reach_of``.
    """
    lr = _picture()
    exact = enlarge(lr).float().clamp(0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = enlarge(lr).float().clamp(0, 1)
    levels = 255 * (rounded - exact).abs().flatten()
    most = levels.quantile(0.99)
    # A NaN fails both comparisons.
    return bool(levels.mean() <= MEAN_LEVELS and most <= MOST_LEVELS)


def _picture() -> Tensor:
    """Return a picture with the spectrum of photographs, (1, 3, 64, 64) in [0, 1].

    It is a sum of noise at all scales, the coarser the stronger.
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.full((1, 3, PICTURE, PICTURE), 0.5)
    side = 2
    while side <= PICTURE:
        noise = torch.randn(1, 3, side, side, generator=generator)
        total += 0.2 * side**-0.25 * functional.interpolate(noise, PICTURE, mode="bilinear")
        side *= 2
    return total.clamp(0, 1)
