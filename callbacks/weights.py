"""Find or fetch weights by their name in ``configs/weights.yaml``.

    python main.py weights                     list found and missing files
    python main.py weights --fetch alexnet     fetch these, if they are missing

Files are searched in ``$ENLARGER_WEIGHTS``, then in the caches of torch and of Hugging Face, and
used only if their SHA-256 is the published one. With ``HF_HUB_OFFLINE=1`` nothing is fetched.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from files.checksums import file_hash
from files.paths import expand_path
from files.yaml import plain_yaml

log = logging.getLogger(__name__)

MANIFEST = Path(__file__).resolve().parents[1] / "configs" / "weights.yaml"
PATIENCE = 20  # seconds without an answer until a source counts as unreachable
_out_of_reach: set[str] = set()  # hosts that this process could not connect to


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


class UnavailableError(OSError):
    """A file is missing on this machine and could not be fetched."""


# -------------------------------------------------------------------------------- by name


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


def obtain(name: str) -> Path | None:
    """Find the file of a name on this machine, or fetch it.

    Args:
        name: A name of the manifest.

    Returns:
        The verified file, or None.

    Raises:
        ValueError: If the manifest has no such name.
        WrongWeightsError: If the file found is not the published one.
    """
    entry = entry_of(name)
    if (path := locate(entry)) is not None:
        return path
    return locate(entry) if _fetched(name) else None


def require(name: str) -> Path:
    """As ``obtain``, for what cannot do without.

    Raises:
        FileNotFoundError: If it is missing; nothing is computed with random weights.
    """
    path = obtain(name)
    if path is None:
        raise FileNotFoundError(missing(name))
    return path


@functools.cache
def _fetched(name: str) -> bool:
    # Several metrics may need one file, or files of one host: wait for an unreachable source, and
    # log it, once a process.
    # The caller's message says where to get the file.
    entry = entry_of(name)
    host = urlsplit(entry["source"]).netloc
    if host in _out_of_reach:
        log.info("%s is not fetched: %s was out of reach", entry["file"], host)
        return False
    try:
        fetch(entry)
    except UnavailableError as error:
        log.info("%s could not be fetched: %s", entry["file"], error.__cause__)
        if isinstance(error.__cause__, URLError) and not isinstance(error.__cause__, HTTPError):
            _out_of_reach.add(host)
        return False
    return True


def missing(name: str) -> str:
    """Return one line on a missing file: its name, its source and where to put it."""
    entry = entry_of(name)
    return (
        f"{entry['file']} is neither in $ENLARGER_WEIGHTS nor in the caches of torch and Hugging "
        f"Face; {_mend(entry)}"
    )


# -------------------------------------------------------------------------------- the lookup


def locate(entry: Entry) -> Path | None:
    """Return the verified file of a manifest's entry, or None.

    Raises:
        WrongWeightsError: If the file of that name has another hash.
    """
    path = place_of(entry)
    if path is not None:
        _verify(path, entry)
    return path


def place_of(entry: Entry) -> Path | None:
    """Return the first file of this name, unverified, or None."""
    for folder in folders():
        path = folder / entry["file"]
        if path.is_file():
            return path
    return _in_hugging_face(entry)


def fetch(entry: Entry) -> Path:
    """Fetch the file of a manifest's entry into torch's cache, once for all processes.

    Returns:
        The verified file.

    Raises:
        UnavailableError: If it fails; the message says where to get the file and to put it.
    """
    from filelock import FileLock  # here, as `list` needs only the names
    from huggingface_hub.constants import HF_HUB_OFFLINE

    path = torch_cache() / entry["file"]
    try:
        if HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")), _patience():
            if not path.is_file():  # another process may have fetched it meanwhile
                _download(entry, path)
        _verify(path, entry)
    except Exception as error:  # urllib, ssl, hash and disk errors alike
        why = str(error).removeprefix("<urlopen error ").removesuffix(">")
        raise UnavailableError(
            f"{entry['file']} is missing and could not be fetched ({why}): {_mend(entry)}"
        ) from error
    return path


def folders() -> list[Path]:
    """Return the folders of files under their own names: ``$ENLARGER_WEIGHTS``, torch's cache."""
    user_folder = os.environ.get("ENLARGER_WEIGHTS")
    if not user_folder:
        return [torch_cache()]
    return [Path(expand_path(user_folder, "ENLARGER_WEIGHTS")), torch_cache()]


def torch_cache() -> Path:
    """Return the folder where torchvision and ``torch.hub`` keep their downloads."""
    import torch  # here, because it takes long to import

    return Path(torch.hub.get_dir()) / "checkpoints"


def _in_hugging_face(entry: Entry) -> Path | None:
    # Its cache keeps large files under their hash. Names do not help: many repositories have a
    # model.safetensors.
    from huggingface_hub.constants import HF_HUB_CACHE

    if entry["sha256"] is None:
        return None
    paths = Path(HF_HUB_CACHE).glob(f"models--*/blobs/{entry['sha256']}")
    return min(paths, default=None)


def _download(entry: Entry, path: Path) -> None:
    import torch

    log.info("fetching %s from %s (licence: %s)", entry["file"], entry["source"], entry["licence"])
    torch.hub.download_url_to_file(entry["source"], str(path), entry["sha256"])


def _verify(path: Path, entry: Entry) -> None:
    expected = entry["sha256"]
    if expected is not None and file_hash(path) != expected:
        raise WrongWeightsError(
            f"{path} is not the published {entry['file']}: its SHA-256 is {file_hash(path)}, "
            f"configs/weights.yaml has {expected}; replace it by the one from {entry['source']}"
        )


def _mend(entry: Entry) -> str:
    folder = os.environ.get("ENLARGER_WEIGHTS")
    place = f"{folder} ($ENLARGER_WEIGHTS)" if folder else "a folder named by $ENLARGER_WEIGHTS"
    return f"get it from {entry['source']} (licence: {entry['licence']}) and put it into {place}"


@contextmanager
def _patience() -> Iterator[None]:
    # torch's download waits forever if a firewall drops packets.
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(timeout)


# -------------------------------------------------------------------------------- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command-line arguments; those of this process by default.

    Returns:
        0; 1 if a file could not be fetched or is not the published one.

    Raises:
        ValueError: For an unknown name; ``main.py`` prints its message.
    """
    parser = argparse.ArgumentParser(
        prog="main.py weights",
        description="List the weights that the project knows by name, and fetch those missing.",
    )
    parser.add_argument("names", nargs="*", help="only these; all by default")
    parser.add_argument("--fetch", action="store_true", help="fetch those that are named")
    options = parser.parse_args(arguments)
    if options.fetch and not options.names:  # all together are tens of gigabytes
        parser.error("--fetch takes names, such as --fetch alexnet; without it, all are listed")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    entries = {name: entry_of(name) for name in options.names} or manifest()
    problems = _fetch_all(entries) if options.fetch else []
    states = {name: _state(entry) for name, entry in entries.items()}
    for name, entry in entries.items():
        sys.stdout.write(f"{name}: {states[name]}\n    {entry['used_by']}; {entry['licence']}\n")
    absent = [name for name, state in states.items() if state.startswith("missing")]
    if absent and not options.fetch:
        place = " or ".join(map(str, folders()))
        sys.stdout.write(
            f"missing: {', '.join(absent)}; put them into {place}, or fetch them by --fetch NAME\n"
        )
    for line in problems:
        log.error("error: %s", line)
    wrong = any(state.startswith("wrong") for state in states.values())
    return 1 if problems or wrong else 0


def _fetch_all(entries: Mapping[str, Entry]) -> list[str]:
    problems = []
    for entry in entries.values():
        try:
            if locate(entry) is None:
                fetch(entry)
        except UnavailableError as error:
            problems.append(str(error))
        except WrongWeightsError:
            continue  # the table says so
    return problems


def _state(entry: Entry) -> str:
    try:
        path = locate(entry)
    except WrongWeightsError as error:
        return f"wrong: {error}"
    if path is None:
        return f"missing: {entry['file']} from {entry['source']}"
    return str(path) if entry["sha256"] else f"{path} (not verified: no hash is known)"
