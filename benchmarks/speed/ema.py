"""Cost of one EMA update against the memory-bandwidth floor: `python -m benchmarks.speed.ema`.

An update reads average and weights and writes the average. The floor is the cheapest pass that
moves the same bytes, in the same run: ``a.add_(b)`` over two flat tensors of as many numbers.
The floor means something for the large network; the small one's tensors stay in the cache, and its
milliseconds are mostly the cost of calling torch once a tensor. On a CPU one thread is used: it
nearly fills the memory bus, and with more, a busy neighbour would be measured.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import nn

from benchmarks.report import without_options, write_report
from benchmarks.speed.degradation import seconds
from callbacks.training.ema import EMA

SEED = 0
ROUNDS = 60


def networks() -> dict[str, nn.Module]:
    """A small network whose tensors fit into the cache, and a large one whose do not."""
    from diffusers import UNet2DModel

    from lightning_modules.networks.imdn import IMDN

    unet: Any = UNet2DModel  # untyped
    channels = (128, 256, 256, 512)
    return {"imdn x4": IMDN(4.0), "diffusion unet": unet(block_out_channels=channels)}


def measure(module: nn.Module, device: torch.device) -> dict[str, Any]:
    """Times of update and floor in turns, so that a busy machine slows both."""
    module = module.to(device)
    ema = EMA()
    ema.track(module)
    numbers = sum(p.numel() for p in module.parameters())
    flat, other = torch.zeros(numbers, device=device), torch.ones(numbers, device=device)
    update: list[float] = []
    floor: list[float] = []
    for _ in range(ROUNDS):
        update.append(seconds(ema.update, device))
        floor.append(seconds(lambda: flat.add_(other), device))
    update, floor = update[5:], floor[5:]  # the first rounds touch the memory for the first time
    ratios = [u / f for u, f in zip(update, floor, strict=True)]
    return {
        "parameters": numbers,
        "tensors": sum(1 for _ in module.parameters()),
        "update_ms": round(statistics.median(update) * 1e3, 4),
        "floor_ms": round(statistics.median(floor) * 1e3, 4),
        "ratio": round(statistics.median(ratios), 3),
    }


def main() -> None:
    """Measure on the GPU if there is one, else on one core, and write the result."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    results = {name: measure(module, device) for name, module in networks().items()}
    write_report("ema", {"rounds": ROUNDS, **results}, SEED)


if __name__ == "__main__":
    without_options(__doc__)
    main()
