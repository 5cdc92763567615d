"""What a billion images cost, from small measurements: ``python -m benchmarks.scale``.

Two sizes of each give the cost of one more sample, tar or image: made-up indices of tars that are
holes, a web server on this host, noise to pack. The plan is measured whole. Writes
benchmarks/results/scale.json; docs/scale.md says where it stops being linear.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.miniature.jobs import REPOSITORY
from benchmarks.report import without_options, write_report
from benchmarks.speed.streaming.start import make_up, resident
from datamodules.order.keys import digest_of
from datamodules.order.plan import Plan, PlanSampler
from datamodules.shards import shards, table, writer
from tests.datamodules.server import serving

IMAGES, TAR, RANKS = 10**9, 1000, 1024


def fastest(function: Callable[[], Any], times: int = 5) -> float:
    """Core seconds of the fastest of some calls."""
    took = []
    for _ in range(times):
        begun = time.process_time()
        function()
        took.append(time.process_time() - begun)
    return min(took)


def plan(folder: Path) -> dict[str, float]:
    """The plan of all tars, on a rank with one of 1,024 streams, half-way through an epoch."""
    before = resident()
    made = Plan(tuple(np.full(IMAGES // TAR, TAR).tolist()), 0, 16 * RANKS, RANKS)
    batches = iter(PlanSampler(made, 7, RANKS, lambda: (3, len(made) // 2)))
    first = fastest(lambda: next(batches), 1)
    return {"bytes": resident() - before, "first_batch_s": first}


def index(folder: Path) -> dict[str, float]:
    """One more sample, and one more tar, of a set whose table is stored, when it is opened."""
    opened, sizes, hashed = [], [], []
    for tars, samples in ((50, 1000), (400, 1000), (1600, 50)):
        made = folder / str(tars)
        make_up(made, tars, samples)
        source = shards.Shards(str(made / "made-up-*.tar"), index_cache=str(made / "cache"))
        source.prepare(4)
        opened.append(fastest(lambda s=source: s.prepare(4)))  # type: ignore[misc]
        hashed.append(fastest(lambda s=source: digest_of(s.keys)))  # type: ignore[misc]
        sizes.append(source._table.nbytes)
    return {
        "bytes_a_sample": (sizes[1] - sizes[0]) / 350_000,
        "seconds_a_sample": (hashed[1] - hashed[0]) / 350_000,
        "seconds_a_tar": (opened[2] - opened[1]) / 1200,
    }


def requests(folder: Path) -> dict[str, float]:
    """Requests of a process for a remote tar: at the first start, at later ones, and to read it."""
    found = {}
    for number in range(6):
        tar = writer.ShardWriter(folder, "t", 4, first=number)
        for n in range(4):
            tar.add(f"{number}-{n}", {"png": noise((8, 8), n, ".png")})
        tar.finish()
    with serving(folder) as server:
        for name in ("first_start", "later_start", "reading"):
            if name != "reading":
                places = {"index_cache": str(folder / "i"), "cache_dir": str(folder / "c")}
                source = shards.Shards(f"{server.url}/t-{{000000..000005}}.tar", **places)
                source.prepare(4)
            else:
                list(map(source.read, range(24)))
            found[name] = len(server.requests) / 6
            server.requests.clear()
    return found


def noise(size: tuple[int, int], seed: int, kind: str) -> bytes:
    """Return a file of smooth noise."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return bytes(cv2.imencode(kind, cv2.resize(small, size))[1].tobytes())


def packing(folder: Path) -> dict[str, float]:
    """Core seconds of one more JPEG of 480x320, kept as it is; memory of one more input."""
    took, peaks = [], []
    for number, (size, count) in enumerate((((480, 320), n) for n in (50, 450, 500, 3500))):
        made = folder / f"{number}"
        made.mkdir()
        for n in range(count):
            (made / f"{n}.jpg").write_bytes(noise(size if number < 2 else (8, 8), n, ".jpg"))
        words = [sys.executable, "main.py", "pack", str(made), f"{made}-out", "--workers", "1"]
        process = subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
        usage = os.wait4(process.pid, 0)[2]
        took.append(usage.ru_utime + usage.ru_stime)
        peaks.append(usage.ru_maxrss * 1024)
    return {"seconds_an_image": (took[1] - took[0]) / 400, "bytes": (peaks[3] - peaks[2]) / 3000}


def at_scale(measured: dict[str, Any]) -> dict[str, Any]:
    """Extrapolate to all images and ranks."""
    at, tars, packed = measured["index"], IMAGES // TAR, measured["packing"]
    asked, reads = measured["requests"]["later_start"], measured["requests"]["reading"]
    opening = at["seconds_a_sample"] * IMAGES + at["seconds_a_tar"] * tars
    return {
        "index_GB": (at["bytes_a_sample"] + 4) * IMAGES / 1e9,  # starts of keys beyond 4 GiB
        "plan_GB": measured["plan"]["bytes"] / 1e9,
        "first_batch_s": opening + measured["plan"]["first_batch_s"],
        "requests_of_a_start": asked * tars * RANKS,
        "requests_a_second_at_100_images_a_rank": reads * 100 * RANKS / TAR,
        "packing_core_hours": packed["seconds_an_image"] * IMAGES / 3600,
        "packing_list_GB": packed["bytes"] * IMAGES / 1e9,
    }


def main() -> None:
    """Measure, extrapolate, and write JSON."""
    table.MAPPED, shards.LARGE = 0, 1  # as for a set that is large
    measured = {}
    for part in (plan, index, requests, packing):
        with tempfile.TemporaryDirectory() as folder:
            measured[part.__name__] = part(Path(folder))
    sizes = {"images": IMAGES, "images_a_tar": TAR, "ranks": RANKS}
    results = {**sizes, "measured": measured, "extrapolated": at_scale(measured)}
    write_report(
        "scale", json.loads(json.dumps(results), parse_float=lambda t: float(f"{float(t):.3g}")), 0
    )


if __name__ == "__main__":
    without_options(__doc__)
    main()
