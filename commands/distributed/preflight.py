"""Facts of all processes, compared before the first step.

A difference would otherwise cause a hang (one process has fewer batches), an error hours later, or
no error at all (one node has older code).
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from callbacks.evaluation import gather
from commands.arguments.saved_config import flat
from commands.errors import ROOT, ConfigurationError
from commands.tracebacks import ROOMS
from files.versions import installed

Facts = dict[str, Any]
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
    "weights": ("the weights", "start again, or name a file with --ckpt_path"),
    "data": ("the images", "all nodes must see the same files"),
}


def compare(facts: Facts) -> None:
    """Compare facts of all processes.

    Args:
        facts: Those of this process.

    Raises:
        ConfigurationError: If they differ, on all processes.
    """
    everyone = gather((socket.gethostname(), facts))
    sentences = differences(everyone)
    if sentences:
        reason = "".join(f"\n  {sentence}" for sentence in sentences)
        raise ConfigurationError(f"the processes cannot run together:{reason}")


def start_facts(config: dict[str, Any]) -> Facts:
    """Return the facts that must be equal before anything is loaded.

    Args:
        config: The whole configuration.
    """
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "libraries": versions(),
        "code": _hash_of(_project_files()),
        "plugins": _hash_of(_plugin_files(config)),
        # As text: 1 and 1.0 are equal, but one batch and all of them.
        "config": {key: json.dumps(v, default=str) for key, v in flat(config).items()},
    }


def versions() -> dict[str, str]:
    """Return the installed versions of the libraries that affect results."""
    return {name: installed(name) or "none" for name in LIBRARIES}


def differences(everyone: list[tuple[str, Facts]]) -> list[str]:
    """Return a sentence for each fact of a process that differs from that of rank 0.

    Args:
        everyone: Host and facts of all processes, by rank.
    """
    sentences = []
    _, first = everyone[0]
    for rank, (host, facts) in enumerate(everyone):
        for key, (subject, fix) in NAMES.items():
            here, there = facts.get(key), first.get(key)
            if here != there:
                text = _difference(here, there)
                sentences.append(f"rank {rank} (on {host}) differs in {subject}: {text}; {fix}")
    return sentences


def _difference(here: Any, there: Any) -> str:
    """Return how a fact of a process differs from rank 0's; of many keys the first five."""
    if not isinstance(here, dict) or not isinstance(there, dict):
        return f"{here} there, {there} on rank 0"
    keys = [k for k in sorted(here.keys() | there.keys()) if here.get(k) != there.get(k)]
    parts = [
        f"{key} is {here.get(key, 'unset')} there, {there.get(key, 'unset')} on rank 0"
        for key in keys[:5]
    ]
    if len(keys) > 5:
        parts.append(f"and {len(keys) - 5} more")
    return "; ".join(parts)


def _project_files() -> Iterator[Path]:
    yield ROOT / "main.py"
    for room in ROOMS:
        yield from sorted((ROOT / room).rglob("*.py"))


def _plugin_files(config: Any) -> Iterator[Path]:
    """Yield the files of a user's own classes in a configuration: of no library, and not ours."""
    foreign = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), ROOT)
    for name in sorted({path.rpartition(".")[0] for path in _class_paths(config)}):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None:
            continue
        path = Path(file).resolve()
        if not any(path.is_relative_to(folder) for folder in foreign):
            yield path


def _class_paths(config: Any) -> Iterator[str]:
    """Yield all values of ``class_path`` in a configuration."""
    if isinstance(config, dict):
        if isinstance(config.get("class_path"), str):
            yield config["class_path"]
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from _class_paths(value)


def _hash_of(files: Iterable[Path]) -> str:
    """Return a digest of the names and contents of files."""
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
