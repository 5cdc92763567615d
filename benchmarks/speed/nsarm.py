"""Seconds and memory of NSARM for 256 to 1024 pixels: `python -m benchmarks.speed.nsarm`.

Networks have random weights and the shapes of the release, each as wide as `--width` says, and the
transformer and the mapper as deep as `--depth`: 1, the default on a GPU, is all of it. On a CPU the
defaults are 1/16 and 1/20: two blocks of 256 channels.

Rows, each a process of its own that makes one image several times:

one pass        the seven known scales, and the first unknown one, in one pass of the transformer
no cache        all tokens so far are computed anew at each scale

`seconds` are those of a whole image, nothing subtracted (the release's own timer leaves out the
time of its first seven scales), with those of the parts; `tokens_a_second` counts all 10,521.
Beside `no cache` stands the factor that the numbers of tokens predict: `linear` for what is done
for each token, `pairs` for attention. `cache_bytes` is by how much the memory in use grew when keys
and values of all tokens were kept, and `cache_formula` is 2 x blocks x channels x tokens x bytes of
a number. With one thread, the default, seconds are CPU time. Prints JSON, and writes it to
benchmarks/results/nsarm.json, of a GPU to nsarm_cuda.json beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.memory import held
from benchmarks.report import write_report
from benchmarks.speed.invsr import clock_of, megabytes
from lightning_modules.backbone.bitwise import BitwiseSpace
from lightning_modules.methods.infinity import Bitwise, drawn_code, sample
from lightning_modules.networks.autoencoders import BitwiseVAE
from lightning_modules.networks.bsq import (
    Scales,
    enlarged,
    published,
    quantized,
    shrunk,
    to_tokens,
    total_after,
)
from lightning_modules.networks.infinity import Cache, InfinityTransformer, Text
from lightning_modules.networks.transformation import RELEASED, Branch, Transformation
from lightning_modules.noise import Noise

ROWS = ("one pass", "no cache")
SIDE, KNOWN = 256, 7
DEPTH, HEADS = 40, 28
VAE = (128, 256, 512, 512)


class Parts:
    """What makes an image.

    Args:
        width: Share of the release's widths.
        depth: Share of its depths.
        device: Where.
    """

    def __init__(self, width: float, depth: float, device: str) -> None:
        heads = max(1, round(HEADS * width))
        blocks = max(1, round(DEPTH * depth))
        widths = [max(32, round(w * width / 32) * 32) for w in VAE]
        with torch.device(device):  # weights are made there: on a CPU that takes minutes
            self.network = InfinityTransformer(depth=blocks, width=128 * heads, heads=heads)
            self.space = BitwiseSpace(BitwiseVAE(14, widths, groups=min(32, min(widths) // 4)))
            self.mapper = Transformation(branches=[_scaled(b, width, depth) for b in RELEASED])
        for part in (self.network, self.space, self.mapper):
            part.to(device).eval()
        self.scales: Scales = published(1.0, "1M", 2)
        self.lr = torch.rand(1, 3, SIDE, SIDE, device=device)
        nothing = self.network.no_text[:1].expand(1, 1, -1).detach()
        self.text = Text(nothing, torch.ones(1, dtype=torch.long, device=device))
        self.noise: Callable[[], Noise] = lambda: Noise(torch.tensor([0]), device)

    def parameters(self) -> dict[str, int]:
        """Numbers of parameters."""
        parts = {"transformer": self.network, "mapper": self.mapper, "autoencoder": self.space}
        return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}

    def known(self) -> list[Tensor]:
        """Codes of the first scales."""
        return [quantized(o) for o in self.mapper(self.space.encode(self.lr))]

    def codes(self, row: str, known: list[Tensor]) -> list[Tensor]:
        """Codes of all scales."""
        if row == "no cache":
            return uncached(self, known)
        how = Bitwise(next_input_mode="area")
        return sample(self.network, self.scales, self.text, self.noise(), how, known)


def uncached(parts: Parts, known: list[Tensor]) -> list[Tensor]:
    """As ``next_scale.sample``, with all tokens so far at each scale that is not known."""
    codes, scales, inputs = list(known), parts.scales, list[Tensor]()
    encoded, noise = parts.network.encode_text(parts.text), parts.noise()
    total: Tensor | float = 0.0
    for number, size in enumerate(scales.latents[1:], 1):
        total = total + enlarged(codes[number - 1], scales.latents[-1])
        inputs.append(to_tokens(shrunk(total, size, "area"), scales.patch))
        if number >= len(known):
            logits = parts.network(torch.cat(inputs, 1), scales, encoded)
            h, w = scales.grids[number]
            codes.append(drawn_code(logits[:, -h * w :], noise, (h, w), scales.patch, Bitwise()))
    return codes


def predicted(scales: Scales, known: int = KNOWN) -> dict[str, float]:
    """Ratio of the work without a cache to that with one, from the numbers of tokens alone.

    Args:
        scales: Of the image.
        known: Scales that are given.
    """
    ends = [span.stop for span in scales.spans]
    counts = [end - start for start, end in pairwise([0, *ends])]
    cached = sum(count * end for count, end in zip(counts, ends, strict=True))
    again = [
        sum(c * e for c, e in zip(counts[: n + 1], ends, strict=False)) for n in range(len(ends))
    ]
    return {
        "linear": round(sum(ends[known:]) / ends[-1], 3),
        "pairs": round(sum(again[known:]) / cached, 3),
    }


def cache_bytes(parts: Parts) -> dict[str, int]:
    """Bytes of the keys and values of all tokens: by growth of what is in use, and by formula."""
    device = parts.lr.device
    shape = (1, parts.scales.tokens - 1, parts.network.bits)
    inputs, encoded = torch.zeros(shape, device=device), parts.network.encode_text(parts.text)
    parts.network(inputs, parts.scales, encoded, 0, Cache(parts.scales.tokens))  # libraries' own
    before, cache = held(device), Cache(parts.scales.tokens)
    parts.network(inputs, parts.scales, encoded, 0, cache)
    grown = held(device) - before
    size = 2 if torch.is_autocast_enabled(device.type) else 4
    formula = 2 * len(parts.network.blocks) * parts.network.width * parts.scales.tokens * size
    del cache
    return {"cache_bytes": round(grown), "cache_formula": formula}


def measure(row: str, width: float, depth: float, repeats: int, device: str) -> dict[str, Any]:
    """One row.

    Args:
        row: Of ``ROWS``.
        width: Share of the release's widths.
        depth: Share of its depths.
        repeats: Images that are timed, after one that is not.
        device: ``cpu`` or ``cuda``.

    Returns:
        Seconds an image and of its parts, tokens a second, megabytes, bytes of the cache.
    """
    parts = Parts(width, depth, device)
    clock, start_mb = clock_of(device), megabytes(device)
    found: list[list[float]] = []
    # As Lightning's bf16-mixed, which keeps no copies of weights.
    mixed = torch.autocast(device, torch.bfloat16, device != "cpu", cache_enabled=False)
    with torch.inference_mode(), mixed:
        for _ in range(repeats + 1):
            times = [clock()]
            known = parts.known()
            times.append(clock())
            codes = parts.codes(row, known)
            times.append(clock())
            parts.space.images(total_after(codes))
            times.append(clock())
            found.append([b - a for a, b in pairwise(times)])
        peak_mb = megabytes(device)
        keys_and_values = cache_bytes(parts)
    of_part = [statistics.median(column) for column in zip(*found[1:], strict=True)]
    seconds = statistics.median(sum(times) for times in found[1:])
    return {
        "seconds": round(seconds, 4),
        **dict(
            zip(("mapper", "transformer", "decode"), (round(s, 4) for s in of_part), strict=True)
        ),
        "tokens_a_second": round(parts.scales.tokens / of_part[1], 1),
        "start_mb": start_mb,
        "peak_mb": peak_mb,
        **keys_and_values,
        "parameters": parts.parameters(),
    }


def _scaled(branch: Branch, width: float, depth: float) -> Branch:
    heads = max(1, round(branch.heads * width))
    pairs = max(1, round(branch.width * width / (2 * heads)))  # a width is even, too
    return Branch(2 * heads * pairs, max(1, round(branch.layers * depth)), heads)


def main() -> None:
    """Measure, print, write."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description="Time NSARM's sampling, 256 to 1024 pixels.")
    for name, cpu in (("width", 1 / 16), ("depth", 1 / 20)):
        about = f"share of the release's (default: 1 on a GPU, {cpu:g} on a CPU)"
        parser.add_argument(f"--{name}", type=float, default=1.0 if gpu else cpu, help=about)
    parser.add_argument("--repeats", type=int, default=10 if gpu else 3, help="timed images")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and images")
    parser.add_argument("--one", help="one row, for a process of its own")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.one is not None:
        device = "cuda" if gpu else "cpu"
        row = measure(options.one, options.width, options.depth, options.repeats, device)
        sys.stdout.write(json.dumps(row))
        return
    rows = {name: _in_a_process(name, options) for name in ROWS}
    sizes = [row.pop("parameters") for row in rows.values()]
    first = rows["one pass"]
    results: dict[str, Any] = {
        "lr": [SIDE] * 2,
        "hr": [4 * SIDE] * 2,
        "tokens": published(1.0, "1M", 2).tokens,
        "width": options.width,
        "depth": options.depth,
        "device": "cuda, bfloat16" if gpu else "cpu, float32",
        "parameters": sizes[0],
        "rows": rows,
        "ratios": {
            name: round(rows[name]["transformer"] / first["transformer"], 3) for name in ROWS[1:]
        },
        "predicted": {"no cache": predicted(published(1.0, "1M", 2))},
    }
    write_report("nsarm", results, options.seed, device="cuda" if gpu else "cpu")


def _in_a_process(row: str, options: argparse.Namespace) -> dict[str, Any]:
    given = {k: v for k, v in vars(options).items() if k != "one"}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.speed.nsarm", *words, "--one", row]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return cast("dict[str, Any]", json.loads(done.stdout))


if __name__ == "__main__":
    main()
