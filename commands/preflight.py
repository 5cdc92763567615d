"""Facts that must be equal on all processes before the first step, and messages on differences.

A difference would otherwise cause a hang (one process has fewer batches), an error hours later, or
no error at all (one node has older code).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commands.meeting import Facts

ROOT = Path(__file__).resolve().parents[1]
CODE = (
    *("main.py", "commands", "lightning_modules", "datamodules", "callbacks", "degradations"),
    "files",
)
# Libraries whose version changes weights, pixels or the order of samples.
LIBRARIES = (
    *("torch", "lightning", "numpy", "webdataset", "kornia", "torchvision"),
    *("pillow", "simplejpeg", "opencv-python-headless", "albumentations", "diffusers"),
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
    "data": ("the training images", "all nodes must see the same files"),
}
PRIVATE = ("host", "refusal", "place")  # not compared
MEGABYTE = 2**20


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
        "config": _flat(config),
    }


def versions() -> dict[str, str]:
    """Return the installed versions of the libraries that affect results."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def differences(everyone: list[Facts]) -> list[str]:
    """Return a sentence for each process that differs from rank 0, or refuses to start.

    Args:
        everyone: Facts of all processes, by rank, each with ``host``.
    """
    found = []
    first = everyone[0]
    for rank, facts in enumerate(everyone):
        who = f"rank {rank} (on {facts['host']})"
        if facts.get("refusal"):
            found.append(f"{who}: {facts['refusal']}")
        for key in sorted((first.keys() | facts.keys()) - set(PRIVATE)):
            there, here = first.get(key), facts.get(key)
            if there != here:
                what, fix = NAMES.get(key, (key, "make them the same"))
                text = _difference(here, there, first["host"])
                found.append(f"{who} differs in {what}: {text}; {fix}")
    return found


def room(folder: Path, size: int, kept: int) -> str | None:
    """Return why checkpoints would not fit on the disk, or None.

    Args:
        folder: Folder of the checkpoints; it need not exist.
        size: Size of a checkpoint in bytes.
        kept: Number of further checkpoints, including the one being written.
    """
    place = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free >= size * kept:
        return None
    return (
        f"{folder} has {free / MEGABYTE:.0f} MB left; a checkpoint takes about "
        f"{size / MEGABYTE:.0f} MB, and {kept} more will be written: free space, or lower "
        "checkpoint.keep_last and checkpoint.keep_best"
    )


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


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(config, dict) and config:
        flat: dict[str, Any] = {}
        for key, value in config.items():
            flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: json.loads(json.dumps(config, default=str))}


def _own_files() -> Iterator[tuple[str, Path]]:
    for part in CODE:
        path = ROOT / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            yield str(file.relative_to(ROOT)), file


def _plugin_files(config: Any) -> Iterator[tuple[str, Path]]:
    foreign = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(ROOT))
    modules = {path.rpartition(".")[0] for path in _class_paths(config)}
    for name in sorted(modules):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and not str(Path(file).resolve()).startswith(foreign):
            yield name, Path(file)


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
