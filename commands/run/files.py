"""Checkpoint files: a file of the final name is always complete.

A process may be killed, and a node may lose power, at any moment: a file is written under another
name, flushed to the disk, given its checksum, and only then renamed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from commands.errors import ConfigurationError
from files.checksums import checksum_of, file_hash, stated_digests
from files.json import read_json_object
from files.owned import sync_folder, whole_file
from files.owned import write_whole as write_whole_file

log = logging.getLogger(__name__)
FOLDER = "checkpoints"  # in the folder of a run
CONFIG = "config.yaml"  # of a run or an exported folder
WEIGHTS = "weights.json"  # of a run that started from some tensors of a file
_NAME = re.compile(r"step-(\d+)\.ckpt")


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a large file and its checksum; ``path`` exists only when both are on the disk.

    Args:
        path: The file; an earlier one is kept until the new one is complete.
        write: Writes the content.

    Raises:
        OSError: If the disk is full or the folder not writable; nothing is left behind.
    """
    with whole_file(path) as file:
        write(file)
        file.flush()
        digest, before = file_hash(Path(file.name)), stated_digests(path)
        # Until the new file is in its place, the checksum is also that of an earlier one.
        _write_checksum(path, digest, *before)
    sync_folder(path.parent)
    if before:
        _write_checksum(path, digest)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a small file in one step, flushed to the disk.

    Raises:
        OSError: If it could not be written; an earlier file is kept.
    """
    write_whole_file(path, content)
    sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a small JSON file of ours; an empty one if it is missing or damaged."""
    with contextlib.suppress(OSError):
        return read_json_object(path) or {}
    return {}


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints by step, newest first.

    Raises:
        OSError: The folder cannot be listed.
    """
    steps: dict[int, Path] = {}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
        match = _NAME.fullmatch(name)
        if match:
            steps[int(match[1])] = folder / name
    return [steps[step] for step in sorted(steps, reverse=True)]


def _write_checksum(path: Path, *digests: str) -> None:
    """Write ``PATH.sha256``, with one hash or several that are valid."""
    lines = "".join(f"{digest}  {path.name}\n" for digest in digests)
    write_atomically(checksum_of(path), lines.encode())


def is_whole(path: Path) -> bool:
    """Return whether a checkpoint matches its checksum."""
    return path.is_file() and file_hash(path) in stated_digests(path)


def newest_whole(folder: Path) -> Path | None:
    """Return the newest intact checkpoint; report and skip damaged ones."""
    for path in list_checkpoints(folder):
        if is_whole(path):
            return path
        log.error(
            "DAMAGED CHECKPOINT: %s does not match its checksum; falling back to the previous one",
            path,
        )
    return None


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a checkpoint, from its checksum file if there is one."""
    digests = stated_digests(path)
    return digests[0] if len(digests) == 1 else file_hash(path)


def wait_for(path: Path, digest: str, patience: float) -> None:
    """Wait until this machine sees a checkpoint that another one chose.

    Args:
        path: The checkpoint.
        digest: Its SHA-256 on the other machine.
        patience: Seconds to wait for it: NFS shows new files late.

    Raises:
        ConfigurationError: If it does not.
    """
    deadline = time.monotonic() + patience
    while True:
        reason = "there is no such file"
        if path.is_file():
            actual = file_hash(path)
            if actual == digest:
                return
            reason = f"its content differs (SHA-256 {actual[:12]}, not {digest[:12]})"
        if time.monotonic() > deadline:
            raise ConfigurationError(
                f"{socket.gethostname()} does not see {path}, from which rank 0 continues: "
                f"{reason}; the run directory must be on a disk shared by all nodes"
            )
        time.sleep(1.0)
