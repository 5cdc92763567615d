"""Cost of a billion images, from small measurements: ``python -m benchmarks.scale``.

Two sizes give the cost of one more sample, tar or image; writes benchmarks/results/scale.json.
"""

from __future__ import annotations

import json
import tempfile
import time
import timeit
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.report import without_options, write_report
from benchmarks.speed.streaming.start import make_up, resident
from datamodules.order.keys import digest_of
from datamodules.order.plan import Plan
from datamodules.pack.__main__ import main as pack
from datamodules.shards import shards, table
from tests.datamodules.server import serving

IMAGES, TAR, RANKS = 10**9, 1000, 1024


def fastest(function: partial[Any], times: int = 5) -> float:
    """Core seconds of the fastest of some calls."""
    return min(timeit.repeat(function, time.process_time, repeat=times, number=1))


def plan(folder: Path) -> dict[str, float]:
    """The plan of all tars, on a rank with one of 1,024 streams, half-way through an epoch."""
    before = resident()
    made = Plan(tuple(np.full(IMAGES // TAR, TAR).tolist()), 0, 16 * RANKS, RANKS)
    batches = made.batches(3, len(made) // 2, 7, RANKS)
    return {"first_batch_s": fastest(partial(next, batches), 1), "bytes": resident() - before}


def index(folder: Path) -> dict[str, float]:
    """One more sample, and one more tar, where the table is made, and where it is opened again."""
    first, again, hashed, sizes = [], [], [], []
    for tars, samples in ((50, 1000), (400, 1000), (1600, 50)):
        make_up(made := folder / str(tars), tars, samples)
        source = shards.Shards(f"{made}/made-up-*.tar", index_cache=f"{made}/cache")
        first.append(fastest(partial(source.prepare, 4), 1))
        again.append(fastest(partial(source.prepare, 4)))
        hashed.append(fastest(partial(digest_of, source.keys)))
        sizes.append(source._table.nbytes)
    return {
        "bytes_a_sample": (sizes[1] - sizes[0]) / 350_000,
        "seconds_a_sample_at_first": (first[1] - first[0]) / 350_000,
        "seconds_a_sample": (hashed[1] - hashed[0]) / 350_000,
        "seconds_a_tar": (again[2] - again[1]) / 1200,
    }


def noise(folder: Path, count: int) -> str:
    """Write JPEGs of 480x320 pixels of smooth noise."""
    folder.mkdir()
    for n in range(count):
        small = np.random.default_rng(n).integers(0, 256, (80, 120, 3), np.uint8)
        cv2.imwrite(str(folder / f"{n}.jpg"), cv2.resize(small, (480, 320)))
    return str(folder)


def requests(folder: Path) -> dict[str, float]:
    """Requests of a process for a remote tar: at the first start, at later ones, and to read it."""
    pack([noise(folder / "a", 24), str(folder / "b"), "--samples-per-shard", "4"])
    found = {}
    with serving(folder / "b") as server:
        tars = f"{server.url}/shard-00000{{0..5}}.tar"
        source = shards.Shards(tars, False, f"{folder}/i", f"{folder}/c")
        for name in ("first_start", "later_start", "reading"):
            [source.read(n) for n in range(24)] if name == "reading" else source.prepare(4)
            found[name], server.requests = len(server.requests) / 6, []
    return found


def packing(folder: Path) -> dict[str, float]:
    """Core seconds of one more image, kept as it is, and memory of one more input."""
    took, peaks = [], []
    for count in (100, 500):
        made = noise(folder / f"{count}", count)
        words = [made, f"{made}-out", "--workers", "0", "--overwrite"]
        took.append(fastest(partial(pack, words), 3))
        tracemalloc.start()
        pack(words)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return {"seconds_an_image": (took[1] - took[0]) / 400, "bytes": (peaks[1] - peaks[0]) / 400}


def main() -> None:
    """Measure, extrapolate, and write JSON."""
    table.MAPPED, shards.LARGE = 0, 1  # as for a set that is large
    found, tars = {}, IMAGES // TAR
    for part in (plan, index, requests, packing):
        with tempfile.TemporaryDirectory() as folder:
            found[part.__name__] = part(Path(folder))
    at, asked, packed = (found[name] for name in ("index", "requests", "packing"))
    extrapolated = {
        "index_GB": (at["bytes_a_sample"] + 4) * IMAGES / 1e9,  # starts of keys beyond 4 GiB
        "table_hours": at["seconds_a_sample_at_first"] * IMAGES / 3600,
        "opening_s": at["seconds_a_sample"] * IMAGES + at["seconds_a_tar"] * tars,
        "requests_of_a_start": asked["later_start"] * tars * RANKS,
        "requests_a_second_at_100_images_a_rank": asked["reading"] * 100 * RANKS / TAR,
        "packing_core_hours": packed["seconds_an_image"] * IMAGES / 3600,
        "packing_list_GB": packed["bytes"] * IMAGES / 1e9,
    }
    text = json.dumps({"measured": found, "extrapolated": extrapolated})
    write_report("scale", json.loads(text, parse_float=lambda x: float(f"{float(x):.3g}")), seed=0)


if __name__ == "__main__":
    without_options(__doc__)
    main()
