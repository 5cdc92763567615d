"""Reading images from shards: ours against the limit and against other loaders, in turns.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.streaming PHOTOGRAPHS

PHOTOGRAPHS is a folder of JPEG files, each larger than 256 px (numbers here are of 481x321 px).
litdata and mosaicml-streaming take part where they are installed (they are no dependencies: an
environment of its own will do).

Time is that of the processors (user and system, of this process and of its workers), so that what
else runs on the machine matters little. Without workers, everything is on one core. A ratio is the
median over turns of the ratio within a turn, in which all columns run one after the other. With a
GPU batches are brought there, within the time; numbers are in `streaming_cuda.json` then.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import report
from benchmarks.speed.streaming import start
from benchmarks.speed.streaming.loaders import BATCH, CROP, Runner, Turn, installed
from benchmarks.timing import in_turns, ratio

SEED = 0
WORKERS = 2


def compare(runners: list[Runner], workers: int, turns: int) -> dict[str, Any]:
    """All loaders in turns."""
    columns = {runner.name: lambda _, of=runner: of.turn(workers) for runner in runners}
    times = in_turns(columns, turns)
    return {
        "columns": {name: summary(taken) for name, taken in times.items()},
        **against({name: [turn.cpu for turn in taken] for name, taken in times.items()}),
    }


def summary(taken: list[Turn]) -> dict[str, float]:
    """Medians over the turns."""
    cpu, wall = (statistics.median(values) for values in zip(*taken, strict=True))
    return {
        "cpu_us_an_image": round(cpu, 1),
        "images_per_cpu_second": round(1e6 / cpu, 1),
        "images_per_second": round(1e6 / wall, 1),
    }


def against(times: dict[str, list[float]]) -> dict[str, Any]:
    """How many times as fast ours is, and what a sample of ours costs beyond the limit."""
    own = [a - b for a, b in zip(times["ours"], times["limit"], strict=True)]
    return {
        "ours_over": {
            name: round(ratio(taken, times["ours"]), 3)
            for name, taken in times.items()
            if not name.startswith("ours")
        },
        "stream_over_webdataset": round(ratio(times["webdataset_bare"], times["ours_stream"]), 3),
        "us_a_sample_of_our_own": round(statistics.median(own), 1),
        "turns": len(own),
    }


def loaders(photographs: Path, place: Path, turns: int, device: str = "cpu") -> dict[str, Any]:
    """All loaders that are there, without workers and with them."""
    runners = list[Runner]()
    try:
        for name in tqdm(installed(), desc="preparing", disable=None):
            runners.append(Runner(name, photographs, place, device))
            runners[-1].turn(0)  # one after the other: the first of ours packs the shards
        return {
            "0 workers, one core": compare(runners, 0, turns),
            f"{WORKERS} workers": compare(runners, WORKERS, turns),
        }
    finally:
        for runner in runners:
            runner.stop()


def main() -> None:
    """Measure and write the result."""
    parser = report.parser(__doc__, timed=True)
    parser.add_argument("photographs", type=Path, help="folder of JPEG files")
    parser.add_argument("--turns", type=int, default=9, help="turns of each loader")
    arguments = parser.parse_args()

    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        results: dict[str, Any] = {
            "batch": f"{BATCH} crops of {CROP} px",
            "packages": installed(),
            **loaders(arguments.photographs, place, arguments.turns, arguments.device),
            "start, a million samples": start.measure(place / "start"),
        }
    report.write_report("streaming", results, SEED, device=arguments.device)


if __name__ == "__main__":
    main()
