"""NSARM's later scales in one pass of the transformer: `python -m benchmarks.nsarm_passes`.

Trains on CIFAR-10's automobiles what `benchmarks/configs/nsarm_passes.yaml` lists: an NSARM that
predicts three scales in three passes, and two students that do in one, with and without the noise
that their bits are drawn with. Tests them beside the teacher, also in one pass, which it was not
trained for. Writes `nsarm_passes.json` and `nsarm_passes.webp` into benchmarks/results; `times` has
CPU seconds an image of the teacher's passes and of the student's one, taken in turns. About 60 CPU
minutes; typed again, it goes on where it ended, in runs/nsarm_passes. Images as for
`benchmarks.miniature`.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.miniature import report as tables
from benchmarks.miniature import sheet
from benchmarks.miniature.__main__ import Line
from benchmarks.miniature.data import VARIABLE, write_images
from benchmarks.miniature.jobs import REPOSITORY, run_jobs
from benchmarks.miniature.table import Plan, load
from benchmarks.report import RESULTS, without_options, write_report
from lightning_modules.networks.infinity import InfinityTransformer, Text
from lightning_modules.networks.scales import Scales
from lightning_modules.next_scale.next_scale import Bitwise, sample
from lightning_modules.noise import Noise

TABLE = REPOSITORY / "benchmarks/configs/nsarm_passes.yaml"
RUNS = Path("runs/nsarm_passes")
SEEDS = 2  # of sampling
REPEATS = 7
GRIDS = [(1, 1), (2, 2), (4, 4), (6, 6), (6, 6), (8, 8)]
BITS, KNOWN = 24, 3


class Shape(NamedTuple):
    """Sizes of a transformer."""

    depth: int
    width: int
    heads: int


SHAPES = {"of cars": Shape(4, 96, 4), "wider": Shape(4, 256, 4)}


def main() -> None:
    """Train, test, time, and write JSON and image."""
    plan = Plan(load(TABLE), RUNS, SEEDS)
    data, line = write_images(plan.data), Line()
    run_jobs(plan.jobs(), 1, line.show, {VARIABLE: str(plan.data.resolve())})
    line.end()
    times = {name: times_of(shape) for name, shape in SHAPES.items()}
    write_report("nsarm_passes", {**tables.collect(plan, data), "times": times}, seed=0)
    shown = [row.name for row in plan.rows if row.shown]
    sheet.sheet(sheet.lines(plan, shown)).save(RESULTS / "nsarm_passes.webp", lossless=True)


@torch.inference_mode()
def times_of(shape: Shape, repeats: int = REPEATS) -> dict[str, dict[str, float]]:
    """Return CPU seconds an image of the transformer's part of sampling, and their ratio.

    Args:
        shape: Sizes of the transformer, whose weights are random.
        repeats: Images or batches, in turns.

    Returns:
        For batches of 1 and of 16 the medians of three passes and of one, and one over three.
    """
    sizes = (BITS, *shape, 128, 1)
    teacher = InfinityTransformer(*sizes, drop_path=0.0).eval()
    student = InfinityTransformer(*sizes, drop_path=0.0, reads_noise=True).eval()
    scales, found = Scales(GRIDS), {}
    for count in (1, 16):
        text = Text(torch.zeros(count, 1, 128), torch.ones(count, dtype=torch.long))
        known = [torch.ones(count, BITS, h, w) for h, w in GRIDS[:KNOWN]]
        taken: dict[str, list[float]] = {"three": [], "one": []}
        for number in range(repeats + 1):
            for name, network, passes in (("three", teacher, None), ("one", student, [3])):
                noise, start = Noise(torch.arange(count)), time.process_time()
                sample(network, scales, text, noise, Bitwise(), known, passes=passes)
                if number:  # the first one warms up
                    taken[name].append((time.process_time() - start) / count)
        medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
        ratio = medians["one"] / medians["three"]
        found[f"batch of {count}"] = {
            **{name: round(seconds, 6) for name, seconds in medians.items()},
            "ratio": round(ratio, 3),
        }
    return found


if __name__ == "__main__":
    without_options(__doc__)
    main()
