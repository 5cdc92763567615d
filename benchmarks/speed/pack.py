"""Photographs a second that `pack` takes: `ENLARGER_DATA=... python -m benchmarks.speed.pack`.

900 images, each of 300 photographs of BSDS three times, as lossless WebP: two parts at once against
one, and tasks of Ray against workers, on two cores. Each number is the best of the rounds that
begin in three minutes, in which all take turns, from the start of the command to its end; Ray's
cluster runs before. On a machine that others use, time on cores is the better measure: twice that
of one part, by that of two.
"""

from __future__ import annotations

import math
import os
import resource
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import without_options, write_report

PHOTOGRAPHS, COPIES, CORES, SECONDS, SEED = 300, 3, 2, 180, 0
IMAGES = PHOTOGRAPHS * COPIES
OPTIONS = ("--encode", "webp", "--samples-per-shard", "10", "--keep-duplicates")
CLUSTER = f"""
import sys
import ray
found = ray.init("local", num_cpus={CORES}, include_dashboard=False, _node_ip_address="127.0.0.1")
print(found.address_info["address"], flush=True)
sys.stdin.read()
"""


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Start a cluster of this machine's cores; the environment of its commands."""
    environment = {
        **{**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"},
        **{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)},
    }
    command = [sys.executable, "-c", CLUSTER]
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        yield {**environment, "RAY_ADDRESS": process.stdout.readline().strip()}
        process.communicate("")


def rate(images: Path, environment: dict[str, str], *commands: tuple[str, ...]) -> float:
    """Images a second of some commands at the same time."""
    with tempfile.TemporaryDirectory() as out:
        begun = time.perf_counter()
        started = [
            subprocess.Popen(
                [sys.executable, "main.py", "pack", str(images), out, *OPTIONS, *command],
                env=environment,
                stderr=subprocess.DEVNULL,
            )
            for command in commands
        ]
        if any([process.wait() for process in started]):
            sys.exit(f"pack failed: {commands}")
        return IMAGES / (time.perf_counter() - begun)


def seconds_on_cores() -> float:
    """Time on cores of all commands so far, and of their workers."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and write the result."""
    root = os.environ.get("ENLARGER_DATA")
    if root is None:
        sys.exit("set ENLARGER_DATA to the folder that holds bsds400")
    # The time on cores of workers would not be known, as they are children of another process.
    one, two = ("--part", "1/1", "--workers", "0"), ("--workers", "0", "--part")
    ways: dict[str, list[tuple[str, ...]]] = {
        "one_part": [one],
        "two_parts": [(*two, "1/2"), (*two, "2/2")],
        "local": [("--workers", str(CORES))],
        "ray": [("--engine", "ray")],
    }
    best, rounds, end = dict.fromkeys(ways, 0.0), 0, time.perf_counter() + SECONDS
    cores = dict.fromkeys(ways, math.inf)
    with tempfile.TemporaryDirectory() as folder, cluster() as environment:
        for path in sorted(Path(root, "bsds400").glob("*.jpg"))[:PHOTOGRAPHS]:
            for copy in range(COPIES):
                shutil.copy(path, Path(folder, f"{path.stem}-{copy}.jpg"))
        while time.perf_counter() < end:
            rounds += 1
            for name, commands in ways.items():
                before = seconds_on_cores()
                best[name] = max(best[name], rate(Path(folder), environment, *commands))
                cores[name] = min(cores[name], seconds_on_cores() - before)
    results = {
        **{"rounds": rounds, "load_average_of_5_minutes": round(os.getloadavg()[1], 1)},
        "images_a_second": {name: round(value, 2) for name, value in best.items()},
        "two_parts_against_one": round(best["two_parts"] / best["one_part"], 2),
        "two_parts_against_one_on_cores": round(2 * cores["one_part"] / cores["two_parts"], 2),
        "ray_against_local": round(best["ray"] / best["local"], 2),
    }
    write_report("pack", results, SEED)


if __name__ == "__main__":
    without_options(__doc__)
    main()
