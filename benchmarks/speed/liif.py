"""LIIF: ours against the form its authors evaluate, in one run.

    python -m benchmarks.speed.liif

Both enlarge the same image with the same random weights, alternately. With one thread, the
default, what counts is CPU time, on which other programs have little influence; with several it is
elapsed time, and the machine should have nothing else to do. Each is given its fastest call. A
training step on sampled points is timed as well. Prints JSON, and writes it to
benchmarks/results/liif.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import write_report
from lightning_modules.networks.liif import LIIF
from tests.reference.liif_official import encode, enlarge, query


def alternate(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Least seconds of two functions that are called in turn, so that a busy machine hits both."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for function, collected in zip((first, second), seconds, strict=True):
            start = clock()
            function()
            if repeat:  # the first call of each is a warm-up
                collected.append(clock() - start)
    ours, official = map(min, seconds)
    return {"ours_s": ours, "official_s": official, "ratio": official / ours}


def measure_image(net: LIIF, side: int, scale: int, repeats: int) -> dict[str, Any]:
    """A whole image, encoder included: side x side to scale times that."""
    lr, state = torch.rand(1, 3, side, side), net.state_dict()
    with torch.inference_mode():
        times = alternate(
            lambda: net(lr, (side * scale, side * scale)),
            lambda: enlarge(state, lr, side * scale, side * scale),
            repeats,
        )
        difference = net(lr, (side * scale, side * scale)) - enlarge(
            state, lr, side * scale, side * scale
        )
    return {
        "lr": [side, side],
        "scale": scale,
        **times,
        "largest_difference": difference.abs().max().item(),
    }


def measure_training(net: LIIF, repeats: int) -> dict[str, Any]:
    """Forward and backward of the published batch's shapes, with 4 crops instead of its 16."""
    crops, points = 4, 2304
    lr, target = torch.rand(crops, 3, 48, 48), torch.rand(crops, points, 3)
    coord, cell = torch.rand(crops, points, 2) * 2 - 1, torch.full((crops, points, 2), 2 / 120)
    parameters: dict[str, Tensor] = dict(net.named_parameters())

    def step(predict: Callable[[], Tensor]) -> None:
        net.zero_grad()
        torch.autograd.backward((predict() - target).abs().mean())

    times = alternate(
        lambda: step(lambda: net.query(net.encode(lr), coord, cell)),
        lambda: step(
            lambda: query(parameters, encode(parameters, lr * 2 - 1), coord, cell) * 0.5 + 0.5
        ),
        repeats,
    )
    return {"crops": crops, "points": points, **times}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Time LIIF against its official form.")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each form")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and images")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    net = LIIF(4)
    results = {
        "image": [measure_image(net, 48, scale, arguments.repeats) for scale in (2, 4)],
        "training": measure_training(net, arguments.repeats),
    }
    write_report("liif", results, arguments.seed)


if __name__ == "__main__":
    main()
