"""Photographs a second that `pack` takes: `ENLARGER_DATA=... python -m benchmarks.speed.pack`.

900 images, each of 300 photographs of BSDS three times, as lossless WebP: two parts at once against
one, and tasks of Ray against workers, on two cores. Each number is the best of the rounds that
begin in three minutes, in which all take turns, from the start of the command to its end; Ray's
cluster runs before. On a machine that others use, time on cores is the better measure: twice that
of one part, by that of two.

If the folder ``$ENLARGER_PEERS`` has a virtual environment ``img2dataset`` with that package, both
pack 3,000 images from a web server on this host, in turns. Both keep the files that they decode,
with 2 processes of 16 connections each; the ratio is the median of the rounds.
"""

from __future__ import annotations

import math
import os
import resource
import secrets
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.report import without_options, write_report

PHOTOGRAPHS, COPIES, CORES, SECONDS, SEED = 300, 3, 2, 180, 0
IMAGES = PHOTOGRAPHS * COPIES
ADDRESSES, CONNECTIONS, ROUNDS = 3000, 16, 5
OPTIONS = ("--encode", "webp", "--samples-per-shard", "10", "--keep-duplicates")
CLUSTER = f"""
import sys
import ray
found = ray.init("local", num_cpus={CORES}, include_dashboard=False, _node_ip_address="127.0.0.1")
print(found.address_info["address"], flush=True)
sys.stdin.read()
"""

SERVER = """
import functools, http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=sys.argv[1]))
print(server.server_address[1], flush=True)
server.serve_forever()
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


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder on this host; the address."""
    command = [sys.executable, "-c", SERVER, str(folder)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.terminate()


def against_img2dataset(images: Path, program: Path) -> dict[str, Any]:
    """Images a second from addresses, in turns, and the ratios; all of them were packed."""
    with tempfile.TemporaryDirectory() as folder, serving(images) as where:
        names = sorted(path.name for path in images.iterdir())
        addresses = [f"{where}/{names[n % len(names)]}?n={n}\n" for n in range(ADDRESSES)]
        (listed := Path(folder, "list.txt")).write_text("".join(addresses), encoding="utf-8")
        ours = ["--workers", str(CORES), "--connections", str(CONNECTIONS), "--keep-duplicates"]
        ours = [sys.executable, "main.py", "pack", str(listed), "OUT", *ours]
        theirs = [str(program), f"--url_list={listed}", "--output_folder=OUT"]
        theirs += [f"--processes_count={CORES}", f"--thread_count={CONNECTIONS}"]
        theirs += ["--input_format=txt", "--output_format=webdataset", "--resize_mode=no"]
        theirs += ["--skip_reencode=True", "--number_sample_per_shard=1000"]
        rates: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(ROUNDS):
            for name, command in (("ours", ours), ("theirs", theirs)):
                with tempfile.TemporaryDirectory(dir=folder) as parent:
                    out = f"{parent}/out"
                    words = [word.replace("OUT", out) for word in command]
                    begun = time.perf_counter()
                    subprocess.run(words, check=True, capture_output=True)
                    rates[name].append(ADDRESSES / (time.perf_counter() - begun))
                    packed = 0
                    for path in Path(out).glob("*.tar"):
                        with tarfile.open(path) as tar:
                            packed += sum(member.name.endswith(".jpg") for member in tar)
                    if packed != ADDRESSES:
                        sys.exit(f"{name} packed {packed} of {ADDRESSES} images")
    ratios = [a / b for a, b in zip(rates["ours"], rates["theirs"], strict=True)]
    return {
        "version": _version(program),
        "images_a_second": {name: round(statistics.median(r), 1) for name, r in rates.items()},
        "ratios": [round(ratio, 2) for ratio in ratios],
        "ours_against_theirs": round(statistics.median(ratios), 2),
        "load_average_of_5_minutes": round(os.getloadavg()[1], 1),
    }


def _version(program: Path) -> str:
    code = "from importlib.metadata import version; print(version('img2dataset'))"
    python = program.parent / "python"
    return subprocess.check_output([str(python), "-c", code], text=True).strip()


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
    peer = Path(os.environ.get("ENLARGER_PEERS", ""), "img2dataset", "bin", "img2dataset")
    against: dict[str, Any] = {}
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
        if peer.is_file():
            against = against_img2dataset(Path(folder), peer)
    results = {
        **{"rounds": rounds, "load_average_of_5_minutes": round(os.getloadavg()[1], 1)},
        "images_a_second": {name: round(value, 2) for name, value in best.items()},
        "two_parts_against_one": round(best["two_parts"] / best["one_part"], 2),
        "two_parts_against_one_on_cores": round(2 * cores["one_part"] / cores["two_parts"], 2),
        "ray_against_local": round(best["ray"] / best["local"], 2),
    }
    if against:
        results["img2dataset"] = against
    write_report("pack", results, SEED)


if __name__ == "__main__":
    without_options(__doc__)
    main()
