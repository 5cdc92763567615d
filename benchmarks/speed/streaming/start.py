"""Time before the first batch of a million samples.

A thousand made-up shards of a thousand samples each: indices as the packer writes them, beside tars
that are holes. Nothing of the tars is read.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from benchmarks.timing import seconds
from datamodules.base import SRDataModule
from datamodules.order.plan import PlanSampler
from datamodules.shards.index import Member, ShardIndex, index_places, save_index
from datamodules.shards.shards import Shards

SHARDS, SAMPLES, IMAGE = 1000, 1000, 73_000  # bytes an image, as those of 481x321 have


def make_up(folder: Path) -> None:
    """Write indices, and the names of tars."""
    folder.mkdir(parents=True)
    block = -(-(512 + IMAGE) // 512) * 512
    chance = random.Random(0)
    for shard in range(SHARDS):
        path = folder / f"made-up-{shard:06d}.tar"
        path.touch()
        os.truncate(path, block * SAMPLES + 1024)
        index = ShardIndex(
            size=block * SAMPLES + 1024,
            mtime_ns=path.stat().st_mtime_ns,
            keys=[f"{shard:04d}/{number:07d}" for number in range(SAMPLES)],
            members=[
                {"jpg": Member(512 + n * block, IMAGE, chance.getrandbits(64), 321, 481)}
                for n in range(SAMPLES)
            ],
            checksum=f"{chance.getrandbits(128):032x}",
        )
        save_index(index, index_places(path, folder)[0])


def measure(folder: Path) -> dict[str, float]:
    """Make shards up and open them: seconds of the processor."""
    make_up(folder)
    source = Shards(str(folder / "made-up-*.tar"), index_cache=str(folder / "cache"))
    data = SRDataModule(4, train=source, batch_size=256, crop_size=256, seed=0)
    opening, again = (seconds(lambda: source.prepare(4)) for _ in range(2))
    data.setup("fit")
    plan = data.plan()
    late = PlanSampler(plan, 0, 1, lambda: (3, int(0.9 * len(plan))))
    return {
        "opening_the_index_first_s": round(opening, 2),
        "opening_the_index_again_s": round(again, 2),
        "first_batch_at_90_percent_of_epoch_3_s": round(seconds(lambda: next(iter(late))), 4),
    }
