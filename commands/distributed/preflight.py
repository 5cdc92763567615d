"""Facts of all ranks, compared before the first step.

A difference would otherwise cause a hang (one process has fewer batches), an error hours later, or
no error at all (one node has older code).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sys
import sysconfig
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from commands.arguments.saved_config import flat
from commands.errors import TemporaryError
from files.versions import installed
from files.words import first_of

POLL = 0.5  # seconds between two checks for missing processes
SHOWN = 8  # ranks in a message
Facts = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
CODE = (
    "main.py",
    "commands",
    "lightning_modules",
    "datamodules",
    "callbacks",
    "degradations",
    "files",
)
# Libraries whose version changes weights, pixels or the order of samples.
LIBRARIES = (
    "torch",
    "lightning",
    "numpy",
    "webdataset",
    "kornia",
    "torchvision",
    "pillow",
    "simplejpeg",
    "opencv-python-headless",
    "albumentations",
    "diffusers",
)
# Name of each fact in messages, and the fix of a difference.
NAMES = {
    "config": ("the configuration", "start all of them with the same command and files"),
    "code": ("Enlarger's code", "check out the same commit, without changes, on all nodes"),
    "plugins": ("the code of your own classes", "copy the same files to all nodes"),
    "python": ("Python", "install the same version on all nodes"),
    "libraries": ("the versions of libraries", "install constraints.txt on all nodes"),
    "world": ("the number of processes", "start the same number on each node"),
    "resume": ("the checkpoint", "the run directory must be on a disk shared by all nodes"),
    "weights": ("the weights", "start again, or name a file with --ckpt_path"),
    "data": ("the images", "all nodes must see the same files"),
}
PRIVATE = ("host", "refusal", "place")  # not compared


def open_store(rank: int, world: int, address: str, port: int, limit: float) -> Store:
    """Connect to the shared store of the run's processes.

    Args:
        rank: Rank of this process.
        world: Number of processes.
        address: Host of the store, which is that of rank 0.
        port: Port of that host.
        limit: Seconds to wait for the process that holds the store.

    Raises:
        TemporaryError: If the store cannot be reached, or its port is in use.
    """
    timeout = timedelta(seconds=limit)
    try:
        if dist.is_torchelastic_launched():  # torchrun holds it
            url = f"env://?rank={rank}&world_size={world}"
            store: Store = next(iter(rendezvous(url, timeout=timeout)))[0]
            # It may still hold the values of the previous attempt.
            return PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        # torch's own store, opened later at the same address, shares the server with this one.
        return TCPStore(
            address,
            port,
            world,
            is_master=rank == 0,
            timeout=timeout,
            wait_for_workers=False,
            multi_tenant=True,
        )
    except dist.DistError as error:
        raise taken_port(error) or TemporaryError(
            f"rank {rank} on {socket.gethostname()} could not reach the shared store of {world} "
            f"processes, {address}:{port}, within {limit:g} s ({_first_line(error)}): is the first "
            "node up, and its port open to this one?"
        ) from error


def taken_port(error: BaseException) -> TemporaryError | None:
    """Return what to say if the first process cannot listen at its port; else None."""
    taken = re.search(r"port: (\d+).*EADDRINUSE", str(error))
    return TemporaryError(f"port {taken[1]} is in use: set MASTER_PORT") if taken else None


def gather(
    store: Store, name: str, rank: int, world: int, facts: Facts, limit: float
) -> list[Facts]:
    """Exchange facts with all other processes.

    Args:
        store: The shared store.
        name: Name of the meeting; each can be used once.
        rank: Rank of this process.
        world: Number of processes.
        facts: Facts of this process, as plain values.
        limit: Seconds to wait for the others.

    Returns:
        The facts of all processes, by rank.

    Raises:
        TemporaryError: If processes are missing after the limit; they are named.
    """
    keys = [f"{name}/{r}" for r in range(world)]
    host = socket.gethostname()
    try:
        store.set(keys[rank], json.dumps(facts))
        missing, deadline = set(range(world)), time.monotonic() + limit
        while True:
            missing = {r for r in missing if not store.check([keys[r]])}
            if not missing:
                break
            if time.monotonic() > deadline:
                names = first_of((f"rank {r}" for r in sorted(missing)), SHOWN)
                raise TemporaryError(
                    f"rank {rank} on {host} waited {limit:g} s for all {world} processes at "
                    f"{name!r}, but {names} did not answer: look at their output, or "
                    "raise run.preflight_minutes if they are only slow"
                )
            time.sleep(POLL)
        return [json.loads(value) for value in store.multi_get(keys)]
    except dist.DistError as error:
        raise TemporaryError(
            f"rank {rank} on {host} lost the shared store ({_first_line(error)}): the process on "
            "the first node ended, or the network failed"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def start_facts(config: dict[str, Any], world: int) -> Facts:
    """Return the facts that must be equal before anything is built.

    Args:
        config: The whole configuration.
        world: Number of processes, as known to this one.
    """
    return {
        "world": world,
        "python": ".".join(map(str, sys.version_info[:3])),
        "libraries": versions(),
        "code": _hash_of(_own_files()),
        "plugins": _hash_of(_plugin_files(config)),
        # As text: 1 and 1.0 are equal, but one batch and all of them.
        "config": {key: json.dumps(v, default=str) for key, v in flat(config).items()},
    }


def versions() -> dict[str, str]:
    """Return the installed versions of the libraries that affect results."""
    return {name: installed(name) or "none" for name in LIBRARIES}


def differences(everyone: list[Facts]) -> list[str]:
    """Return a sentence for each process that differs from rank 0, or refuses to start.

    Args:
        everyone: Facts of all processes, by rank, each with ``host``.
    """
    sentences = []
    first = everyone[0]
    for rank, facts in enumerate(everyone):
        who = f"rank {rank} (on {facts['host']})"
        if facts.get("refusal"):
            sentences.append(f"{who}: {facts['refusal']}")
        for key in sorted((first.keys() | facts.keys()) - set(PRIVATE)):
            there, here = first.get(key), facts.get(key)
            if there != here:
                subject, fix = NAMES.get(key, (key, "make them the same"))
                text = _difference(here, there, first["host"])
                sentences.append(f"{who} differs in {subject}: {text}; {fix}")
    return sentences


# ------------------------------------------------------------------------------------------- parts
def _difference(here: Any, there: Any, host: str) -> str:
    if isinstance(here, dict) and isinstance(there, dict):
        keys = sorted(k for k in here.keys() | there.keys() if here.get(k) != there.get(k))
        parts = [
            f"{key} is {here.get(key, 'unset')} there, {there.get(key, 'unset')} on rank 0"
            for key in keys[:5]
        ]
        more = f", and {len(keys) - 5} more" if len(keys) > 5 else ""
        return "; ".join(parts) + more
    return f"{here} there, {there} on rank 0 (on {host})"


def _own_files() -> Iterator[tuple[str, Path]]:
    for part in CODE:
        path = ROOT / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            yield str(file.relative_to(ROOT)), file


def _plugin_files(config: Any) -> Iterator[tuple[str, Path]]:
    foreign = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), ROOT)
    modules = {path.rpartition(".")[0] for path in _class_paths(config)}
    for name in sorted(modules):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None:
            continue
        path = Path(file).resolve()
        if not any(path.is_relative_to(folder) for folder in foreign):
            yield name, path


def _class_paths(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if isinstance(config.get("class_path"), str):
            yield config["class_path"]
        for value in config.values():
            yield from _class_paths(value)
    elif isinstance(config, list):
        for value in config:
            yield from _class_paths(value)


def _hash_of(files: Iterator[tuple[str, Path]]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name, path in files:
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
