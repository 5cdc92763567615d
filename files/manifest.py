"""Published weights by name: the manifest ``configs/weights.yaml``, and where its files are.

Files are searched in ``$ENLARGER_WEIGHTS``, then in the caches of torch and of Hugging Face, and
used only if their SHA-256 is the published one. With ``HF_HUB_OFFLINE=1`` nothing is fetched.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TypedDict

from files.checksums import file_hash
from files.paths import expand_path
from files.yaml import plain_yaml

log = logging.getLogger(__name__)

MANIFEST = Path(__file__).resolve().parents[1] / "configs" / "weights.yaml"
PATIENCE = 20  # seconds without an answer until a source counts as unreachable


class Entry(TypedDict):
    """One file of the manifest.

    file: Its official name.
    sha256: Hash of the published file; None if unknown, and then it is not verified.
    licence: The licence that its authors state.
    source: Its URL.
    used_by: The class that needs it.
    """

    file: str
    sha256: str | None
    licence: str
    source: str
    used_by: str


class WrongWeightsError(ValueError):
    """A file has the right name but the wrong content."""


def manifest() -> dict[str, Entry]:
    """Return all weights that the project knows, by name."""
    return plain_yaml(MANIFEST.read_text(encoding="utf-8"))


def entry_of(name: str) -> Entry:
    """Return the manifest's entry of a name.

    Raises:
        ValueError: If the manifest has no such name.
    """
    entries = manifest()
    if name not in entries:
        raise ValueError(
            f"{name!r} is no name of configs/weights.yaml, which has: {', '.join(entries)}"
        )
    return entries[name]


def locate(name: str) -> Path:
    """Return the verified file of a name, on this machine or fetched.

    Args:
        name: A name of the manifest.

    Raises:
        FileNotFoundError: If it is missing and could not be fetched: nothing is computed with
            random weights. The message says where to get the file and where to put it.
        ValueError: If the manifest has no such name.
        WrongWeightsError: If the file found is not the published one.
    """
    path = found(name)
    if path is None:
        why = _fetch(name)
        path = found(name)
    if path is None:
        entry = entry_of(name)
        folder = os.environ.get("ENLARGER_WEIGHTS")
        place = f"{folder} ($ENLARGER_WEIGHTS)" if folder else "a folder named by $ENLARGER_WEIGHTS"
        raise FileNotFoundError(
            f"{entry['file']} is neither in $ENLARGER_WEIGHTS nor in the caches of torch and "
            f"Hugging Face, and could not be fetched ({why}); get it from {entry['source']} "
            f"(licence: {entry['licence']}) and put it into {place}"
        )
    return path


def found(name: str) -> Path | None:
    """Return the verified file of a name on this machine, or None.

    Raises:
        WrongWeightsError: If the file of that name has another hash.
    """
    entry, path = entry_of(name), place_of(name)
    expected = entry["sha256"]
    if path is not None and expected is not None and file_hash(path) != expected:
        raise WrongWeightsError(
            f"{path} is not the published {entry['file']}: its SHA-256 is {file_hash(path)}, "
            f"configs/weights.yaml has {expected}; replace it by the one from {entry['source']}"
        )
    return path


def place_of(name: str) -> Path | None:
    """Return where the file of a name is on this machine, without a look at its hash, or None."""
    from huggingface_hub.constants import HF_HUB_CACHE

    entry = entry_of(name)
    for folder in folders():
        path = folder / entry["file"]
        if path.is_file():
            return path
    if entry["sha256"] is None:
        return None
    # That cache keeps large files under their hash. Names do not help: many repositories have a
    # model.safetensors.
    return min(Path(HF_HUB_CACHE).glob(f"models--*/blobs/{entry['sha256']}"), default=None)


def folders() -> list[Path]:
    """Return the folders that are searched: ``$ENLARGER_WEIGHTS`` if it is set, torch's cache."""
    user_folder = os.environ.get("ENLARGER_WEIGHTS")
    if not user_folder:
        return [_torch_cache()]
    return [Path(expand_path(user_folder, "ENLARGER_WEIGHTS")), _torch_cache()]


def _torch_cache() -> Path:
    """Return the folder where torchvision and ``torch.hub`` keep their downloads."""
    import torch  # here, because it takes long to import

    return Path(torch.hub.get_dir()) / "checkpoints"


@functools.cache  # several metrics may need one file: its source is asked once a process
def _fetch(name: str) -> str:
    """Fetch a file into torch's cache, once for all processes; return why that failed, or ""."""
    import torch
    from filelock import FileLock
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    entry = entry_of(name)
    path = _torch_cache() / entry["file"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")), _connection_timeout():
            if not path.is_file():  # another process may have fetched it meanwhile
                log.info("fetching %s (licence: %s)", entry["source"], entry["licence"])
                torch.hub.download_url_to_file(entry["source"], str(path), entry["sha256"])
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: of another hash
        return str(error).removeprefix("<urlopen error ").removesuffix(">")
    return ""


@contextmanager
def _connection_timeout() -> Iterator[None]:
    """Let new connections fail after ``PATIENCE`` seconds without an answer.

    torch's download, which has no timeout, would wait forever if a firewall drops packets.
    """
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(timeout)
