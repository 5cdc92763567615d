"""Pack all parts as tasks of Ray, on a cluster or on this machine: ``--engine ray``.

Ray starts a task when a core is free. It is submitted again if its process or machine was lost.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

from datamodules.pack.inputs import Inputs
from datamodules.pack.options import Settings
from datamodules.pack.packing import Progress
from datamodules.pack.parts import Blocks, begin_part, pack_part
from datamodules.workers import mark_expendable

log = logging.getLogger(__name__)
TASKS = 4  # for each core: so many that all cores end at about the same time
RETRIES = 3  # of a task whose process was lost
SHOWN = 3  # failed parts


def pack_parts(job: dict[str, Any], inputs: Inputs, out: Path, settings: Settings) -> None:
    """Pack all parts that are not done yet.

    Args:
        job: What the shards depend on.
        inputs: All inputs; their paths are the same on all machines.
        out: Folder of the finished shards, as an absolute path that is the same on all machines.
        settings: Settings of the command. ``workers`` is the number of cores of this machine, if
            the environment variable ``RAY_ADDRESS`` names no cluster.

    Raises:
        ValueError: If Ray is missing or its cluster does not answer, other shards are there, or
            parts failed; the other parts are packed before.
    """
    blocks = Blocks.of(job, out, settings.name, settings.samples)
    ray = _connected(settings.workers)
    try:
        failed = _run(ray, blocks, (job, inputs, out), settings)
    finally:
        ray.shutdown()
    if failed:
        raise ValueError(
            f"{len(failed)} of the parts failed ({'; '.join(failed[:SHOWN])}). The others are "
            "packed: the same command goes on with what is missing"
        )


def _connected(cores: int) -> Any:
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "--engine ray needs the package ray, which is not installed: "
            "pip install -c constraints.txt -e '.[ray]'"
        ) from error
    address = os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # sends no usage statistics
        os.environ.setdefault("RAY_worker_niceness", "0")  # as that of workers without Ray; not 15
        local = {
            "num_cpus": max(1, cores),
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"Ray cannot be reached (RAY_ADDRESS: {address}): {error}") from error
    return ray


def pack_once(
    part: tuple[int, int], job: dict[str, Any], inputs: Inputs, out: Path, settings: Settings
) -> None:
    """Pack a part in a process that an image may end; arguments as of ``pack_part``."""
    mark_expendable()
    pack_part(part, job, inputs, out, settings)


def _run(ray: Any, blocks: Blocks, arguments: tuple[Any, ...], settings: Settings) -> list[str]:
    """Run the tasks, and return what happened to those that failed."""
    count = min(len(blocks), TASKS * int(ray.cluster_resources().get("CPU", 1)))
    joined = begin_part(blocks, arguments[0], count)
    parts = {n: blocks.of_part(n, count) for n in range(1, count + 1)}
    whole = [n for n, of in parts.items() if all(blocks.is_whole(block, joined) for block in of)]
    if whole:
        log.info("%d of %d parts were packed already", len(whole), count)
    shared = [ray.put(one) for one in arguments]
    # The process of a task decodes by itself. If it was lost, the next one has a worker, and so
    # finds out whether it was by an image.
    first, again = (ray.put(settings._replace(workers=workers)) for workers in (0, 1))
    task = ray.remote(num_cpus=1, max_retries=0)(pack_once)
    tasks = {task.remote((n, count), *shared, first): n for n in parts if n not in whole}
    failed, lost = [], Counter[int]()
    with Progress(blocks.count) as progress:
        progress.step(sum(_length(blocks, parts[n]) for n in whole))
        while tasks:
            for done in ray.wait(list(tasks))[0]:
                number = tasks.pop(done)
                try:
                    ray.get(done)
                except ray.exceptions.RayError as error:
                    task_failed = isinstance(error, ray.exceptions.RayTaskError)
                    if not task_failed and lost[number] < RETRIES:
                        lost[number] += 1
                        tasks[task.remote((number, count), *shared, again)] = number
                        continue
                    said = getattr(error, "cause", None) or str(error).strip().partition("\n")[0]
                    failed.append(f"part {number}/{count}: {said}")
                progress.step(_length(blocks, parts[number]))
    return failed


def _length(blocks: Blocks, of: range) -> int:
    return sum(len(blocks.numbers(block)) for block in of)
