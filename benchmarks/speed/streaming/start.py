"""Time before the first batch of a million samples, and memory of each process.

A thousand made-up shards of a thousand samples each: indices as the packer writes them, beside tars
that are holes. Nothing of the tars is read. Memory is measured in a process of its own.
"""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHARDS, SAMPLES, IMAGE = 1000, 1000, 73_000  # bytes an image, as those of 481x321 have


def make_up(folder: Path, shards: int = SHARDS, samples: int = SAMPLES) -> None:
    """Write indices, and the names of tars."""
    from datamodules.shards.index import Member, ShardIndex, index_places, save_index

    folder.mkdir(parents=True)
    block = -(-(512 + IMAGE) // 512) * 512
    chance = random.Random(0)
    for shard in range(shards):
        path = folder / f"made-up-{shard:06d}.tar"
        path.touch()
        os.truncate(path, block * samples + 1024)
        index = ShardIndex(
            size=block * samples + 1024,
            mtime_ns=path.stat().st_mtime_ns,
            keys=[f"{shard:04d}/{number:07d}" for number in range(samples)],
            members=[
                {"jpg": Member(512 + n * block, IMAGE, chance.getrandbits(64), 321, 481)}
                for n in range(samples)
            ],
            checksum=f"{chance.getrandbits(128):032x}",
        )
        save_index(index, index_places(path, folder)[0])


def measure(folder: Path) -> dict[str, Any]:
    """Make shards up and open them in a fresh process.

    Raises:
        RuntimeError: That process failed; its last words are in the message.
    """
    make_up(folder)
    command = [sys.executable, "-m", "benchmarks.speed.streaming.start", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def open_and_measure(folder: Path) -> dict[str, Any]:
    """Seconds and bytes of the fresh process."""
    from datamodules.base import SRDataModule
    from datamodules.order.plan import PlanSampler
    from datamodules.shards.shards import Shards

    source = Shards(str(folder / "made-up-*.tar"), index_cache=str(folder / "cache"))
    data = SRDataModule(4, train=source, batch_size=256, crop_size=256, seed=0)
    before = resident()
    opening = seconds(lambda: source.prepare(4))
    again = seconds(lambda: source.prepare(4))
    of_index = resident() - before
    setup = seconds(lambda: data.setup("fit"))
    of_all = resident() - before

    def first(epoch: int, share: float) -> float:
        plan = data.plan()
        sampler = PlanSampler(plan, 0, 1, lambda: (epoch, int(share * len(plan))))
        return seconds(lambda: next(iter(sampler)))

    count = SHARDS * SAMPLES
    return {
        "opening_the_index_first_s": round(opening, 2),
        "opening_the_index_again_s": round(again, 2),
        "the_rest_of_setup_s": round(max(0.0, setup - again), 2),  # it opens the index, too
        "first_batch_of_the_plan_s": round(first(0, 0.0), 4),
        "first_batch_at_90_percent_of_epoch_3_s": round(first(3, 0.9), 4),
        "index_bytes_a_sample": round(of_index / count, 1),
        "process_bytes_a_sample": round(of_all / count, 1),
        "worker_bytes_a_sample_of_its_own": round(in_a_worker(source) / count, 1),
    }


def in_a_worker(source: Any) -> int:
    """Bytes that a forked worker has for itself after it used keys and places of the source."""
    reader, writer = os.pipe()
    worker = os.fork()
    if worker == 0:
        before = own()
        for _ in range(20_000):
            index = random.randrange(len(source.keys))
            source.size(index), source.keys[index]
        os.write(writer, str(own() - before).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(worker, 0)
    return int(os.read(reader, 100))


def seconds(function: Callable[[], Any]) -> float:
    """Time of one call."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def resident() -> int:
    """Bytes of this process in memory, what was freed not counted."""
    import ctypes

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _memory("Rss")


def own() -> int:
    """Bytes that only this process has."""
    return _memory("Private_Dirty") + _memory("Private_Clean")


def _memory(name: str) -> int:
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(open_and_measure(Path(sys.argv[1]))) + "\n")
