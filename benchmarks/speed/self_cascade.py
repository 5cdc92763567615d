"""Cost of Self-Cascade's sampling beside direct inference: calls, operations, time.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.self_cascade --side 128 --rounds 3

`calls` are counted while a small base samples by the defaults, and have to be the paper's: 50 of
the base's size and 35 of the larger one, tuned one pass of the way down more. `operations` are the
multiplications of Stable Diffusion 2.1's U-Net (77 tokens of text), counted on shapes alone, and
what follows for the whole of sampling, without guidance, autoencoder and text encoder. `time` is
that of calls of that U-Net with random weights on this machine, tuned and not in turns, for a
latent of `--side` from a pivot of half of it; with one thread, the default, it is CPU time. Beside
it stands the most memory that each call takes. Prints JSON, and writes it to
benchmarks/results/self_cascade.json, of a GPU to self_cascade_cuda.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import report
from benchmarks.memory import peak_mib
from benchmarks.speed.sampling import clock
from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.library import Flags
from lightning_modules.backbone.space import PixelSpace
from lightning_modules.controls.direct import Direct
from lightning_modules.networks.feature_upsampler import Full, Shared
from lightning_modules.noise import Noise
from lightning_modules.self_cascade import SelfCascade

UPSAMPLERS: dict[str, Any] = {"shared": Shared, "full": Full}
SMALL = {
    **{"in_channels": 3, "out_channels": 3, "block_out_channels": [8, 16], "layers_per_block": 1},
    **{"norm_num_groups": 4, "attention_head_dim": 2, "cross_attention_dim": 8},
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}
SD21: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
EXPECTED: dict[str, dict[str, int]] = {  # side of the latent or pivot, by kind of pass
    "direct": {"whole 16": 50},
    "tuning-free": {"whole 8": 50, "whole 16": 35},
    "tuned": {"whole 8": 50, "whole 16": 35, "way down 8": 1},
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


def counted() -> dict[str, dict[str, int]]:
    """Passes of a small base that makes 16 pixels from 8, by method.

    Raises:
        RuntimeError: They are not the paper's.
    """
    torch.manual_seed(0)
    found = {}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "direct": (Direct, {}),
        "tuning-free": (SelfCascade, {}),
        "tuned": (SelfCascade, {"upsampler": Shared}),
    }
    for name, (kind, settings) in kinds.items():
        denoiser = UNet2D(SMALL, flags=Flags(frozen=True))
        calls: Counter[str] = Counter()
        for part, own in (("whole", "forward"), ("way down", "features")):
            setattr(denoiser, own, _noting(getattr(denoiser, own), part, calls))
        method: Any = kind(2.0, denoiser=denoiser, **settings)
        seeds = torch.zeros(1, dtype=torch.int64)
        method.generate({"key": ["0"], "seed": seeds, "size": (16, 16)}, Noise(seeds))
        found[name] = dict(calls)
    if found != EXPECTED:
        raise RuntimeError(f"sampling called the network {found}, expected {EXPECTED}")
    return found


def _noting(own: Callable[..., Any], part: str, calls: Counter[str]) -> Callable[..., Any]:
    def noting(z: Tensor, *rest: Any) -> Any:
        calls[f"{part} {z.shape[-1]}"] += 1
        return own(z, *rest)

    return noting


class Passes:
    """Passes of a method at Stable Diffusion 2.1's widths, of one image.

    Args:
        method: Tuned.
        side: Of the latent; the pivot's is half of it.
    """

    def __init__(self, method: Any, side: int) -> None:
        self.method = method
        device = next(method.denoiser.parameters()).device
        self.z, self.pivot = (torch.randn(1, 4, n, n, device=device) for n in (side, side // 2))
        self.t = torch.full((1,), 500, device=device)
        self.known = Condition(text=torch.randn(1, 77, 1024, device=device))
        self.kept: dict[str, Tensor] = {}

    def whole(self) -> None:
        """The network, at the larger size."""
        self.method.denoiser(self.z, self.t, self.known)

    def small(self) -> None:
        """The network, at the size before."""
        self.method.denoiser(self.pivot, self.t, self.known)

    def features(self) -> None:
        """The way down, of the pivot."""
        self.kept = self.method._features(self.pivot, self.t, self.known)

    def tuned(self) -> None:
        """The network, at the larger size, with features of the pivot."""
        self.method._adapted(self.method.upsampler, self.z, self.t, self.known, self.kept)


@torch.no_grad()
def operations() -> dict[str, Any]:
    """Billions of multiplications by pass, and shares of direct inference."""
    found: dict[str, float] = {}
    for name, upsampler in UPSAMPLERS.items():
        with torch.device("meta"):
            denoiser = UNet2D(SD21, null_token="none", flags=Flags(frozen=True))
            method = SelfCascade(2.0, denoiser=denoiser, space=Latents(), upsampler=upsampler)
        passes = Passes(method.to("meta"), 128)
        for what in ("small", "whole", "features", "tuned"):
            with FlopCounterMode(display=False) as counter:
                getattr(passes, what)()
            label = f"tuned, {name}" if what == "tuned" else what
            found[label] = counter.get_total_flops() / 2e9
    direct, once = 50 * found["whole"], 50 * found["small"]
    shares = {"tuning-free": (once + 35 * found["whole"]) / direct}
    for name in UPSAMPLERS:
        of_stage = 35 * found[f"tuned, {name}"] + found["features"]
        shares[f"tuned, {name}"] = (once + of_stage) / direct
    return {
        "latent": [128, 128],
        "gmac": {name: round(value, 1) for name, value in found.items()},
        "of direct": {name: round(value, 3) for name, value in shares.items()},
    }


@torch.no_grad()
def seconds(side: int, rounds: int, seed: int, device: str = "cpu") -> dict[str, Any]:
    """Time each pass, in turns, and compare sampling with direct inference.

    Args:
        side: Of the latent.
        rounds: Measurements of each pass.
        seed: Of the weights.
        device: Where.
    """
    denoiser = base(device)
    draws = torch.Generator().manual_seed(seed)
    for parameter in denoiser.parameters():  # equal weights might be quicker than real ones
        parameter.copy_(torch.empty(parameter.shape).normal_(0, 0.02, generator=draws))
    method = SelfCascade(2.0, denoiser=denoiser, space=Latents(), upsampler=Shared)
    passes = Passes(method.to(device), side)
    names = ("features", "small", "whole", "tuned")
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names:
            start = clock()
            getattr(passes, name)()
            if turn:  # the first is to warm up
                taken[name].append(clock() - start)
    peaks = {name: peak_mib(getattr(passes, name), torch.device(device)) for name in names}
    apart = [a / b for a, b in zip(taken["tuned"], taken["whole"], strict=True)]
    mean = {name: statistics.median(values) for name, values in taken.items()}
    direct, once = 50 * mean["whole"], 50 * mean["small"]
    free = once + 35 * mean["whole"]
    tuned = once + 35 * statistics.median(apart) * mean["whole"] + mean["features"]
    return {
        **{"latent": [side, side], "rounds": rounds, "threads": torch.get_num_threads()},
        "seconds": {name: round(value, 2) for name, value in mean.items()},
        "peak_mib": peaks,
        "tuned call of a plain one": [round(x, 4) for x in sorted(apart)],
        "tuned of tuning-free": round(tuned / free, 4),
        "of direct": {"tuning-free": round(free / direct, 3), "tuned": round(tuned / direct, 3)},
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="What Self-Cascade's sampling costs.")
    parser.add_argument("--side", type=int, default=64, help="side of the latent that is timed")
    parser.add_argument("--rounds", type=int, default=7, help="calls of each kind that are timed")
    parser.add_argument("--seed", type=int, default=0, help="of weights and latents")
    parser.add_argument("--device", default=report.device(), help="by default what is there")
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    results = {"calls": counted(), "operations": operations()}
    results["time"] = seconds(arguments.side, arguments.rounds, arguments.seed, arguments.device)
    report.write_report("self_cascade", results, arguments.seed, device=arguments.device)


if __name__ == "__main__":
    main()
