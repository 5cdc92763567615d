"""Memory that a step of Self-Cascade keeps for its backward pass, at Stable Diffusion 2.1's size.

    python -m benchmarks.speed.self_cascade_memory

The sizes of all tensors that autograd keeps of one forward pass are added up, but for the weights:
with gradients that stop before the way up (`skip`), with the released places (`block_out`), and
through the whole U-Net, as they would have to go to train anything in front of it. The weights
mean nothing; the sums depend on shapes and on torch's kernels alone, not on the machine's load.
Prints JSON, and writes it to benchmarks/results/self_cascade_memory.json.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import write_report
from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.library import Flags
from lightning_modules.backbone.space import PixelSpace
from lightning_modules.networks.feature_upsampler import Full, Shared
from lightning_modules.self_cascade import SelfCascade

SD21: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}

# What is set, and whether gradients go through the whole U-Net.
KINDS: dict[str, tuple[dict[str, Any], bool]] = {
    "skip, shared": ({"upsampler": Shared}, False),
    "skip, full": ({"upsampler": Full}, False),
    "block_out, shared": ({"upsampler": Shared, "attach": "block_out"}, False),
    "through all, shared": ({"upsampler": Shared}, True),
}


class Latents(PixelSpace):
    """Four channels; there are no images here."""

    channels = 4


def base(device: str = "cpu") -> UNet2D:
    """Stable Diffusion 2.1's U-Net, of equal weights."""
    with torch.device("meta"):  # random weights would take a minute
        denoiser = UNet2D(SD21, null_token="none", flags=Flags(frozen=True))
    denoiser.to_empty(device=device)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.fill_(1e-3)
    return denoiser


def kept(method: Any, side: int, through: bool) -> int:
    """Bytes that autograd keeps of a step of one image.

    Args:
        method: Tuned.
        side: Of the latent; the pivot's is half of it.
        through: Whether gradients go through the whole U-Net.
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in method.parameters()}
    found: dict[int, Tensor] = {}  # held, so that no address comes twice

    def keep(x: Tensor) -> Tensor:
        place = x.untyped_storage().data_ptr()
        if place not in weights:
            found[place] = x
        return x

    z, pivot = torch.randn(1, 4, side, side), torch.randn(1, 4, side // 2, side // 2)
    t, known = torch.tensor([500]), Condition(text=torch.randn(1, 77, 1024))
    features = method._features(pivot, t, known)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        method._adapted(method.upsampler, z.requires_grad_(through), t, known, features)
    return sum(x.untyped_storage().nbytes() for x in found.values())


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="What Self-Cascade's training keeps in memory.")
    parser.add_argument("--side", type=int, default=32, help="side of the latent")
    parser.add_argument("--seed", type=int, default=0, help="seed of upsamplers and latents")
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    denoiser = base()
    make = partial(SelfCascade, 2.0, denoiser=denoiser)
    results: dict[str, Any] = {"latent": [arguments.side] * 2, "batch": 1, "mib": {}}
    for name, (options, through) in KINDS.items():
        size = kept(make(space=Latents(), **options), arguments.side, through)
        results["mib"][name] = round(size / 2**20, 1)
    write_report("self_cascade_memory", results, arguments.seed)


if __name__ == "__main__":
    main()
