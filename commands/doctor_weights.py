"""``doctor``: which files of configs/weights.yaml exist, and whether they are intact."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from commands.doctor_lines import Check, Line, Options, broken, look, ok
from commands.doctor_machine import MEGABYTE, format_bytes

if TYPE_CHECKING:
    from callbacks.weights import Entry

LARGE = 256 * MEGABYTE  # bytes above which hashing takes seconds, and must be asked for
CHUNK = 16 * MEGABYTE
# First bytes of files that are often saved in place of weights.
OTHERS = {
    b"version https://git-lfs": "a git-lfs pointer instead of the file",
    b"<": "a web page instead of the file",
}


def existing_weights(options: Options) -> Iterator[Line]:
    """Check each weights file that exists."""
    from callbacks.weights import manifest, place_of

    for name, entry in manifest().items():
        if (path := place_of(entry)) is not None:
            yield _judged(name, path, entry, options.checksums)


def missing_weights(options: Options) -> Iterator[Line]:
    """Name the metrics and methods whose weights are missing."""
    from callbacks.weights import folders, manifest, place_of

    entries = manifest()
    absent = [name for name, entry in entries.items() if place_of(entry) is None]
    place = " or ".join(map(str, folders()))
    fix = f"python -m callbacks.weights --fetch NAME, or put the file into {place}"
    for folder, what in (("callbacks.", "metrics"), ("lightning_modules.", "methods")):
        names = [name for name in absent if folder in entries[name]["used_by"]]
        if names:
            users = _by_user(names, entries, folder)
            yield look(f"weights of {what}", f"missing, needed for {users}: {fix}")
    if not absent:
        yield ok("weights", f"all {len(entries)} files of configs/weights.yaml exist")


WEIGHTS_CHECKS: dict[str, Check] = {
    "weights": existing_weights,
    "missing weights": missing_weights,
}


# ------------------------------------------------------------------------------------------- parts


def _judged(name: str, path: Path, entry: Entry, checksums: bool) -> Line:
    what, bytes_ = f"weights {name}", path.stat().st_size
    fix = f"replace it with the file from {entry['source']}"
    if damage := _damage(path):
        return broken(what, f"{path} is {damage}: {fix}")
    about = f"{path}, {format_bytes(bytes_)}"
    if entry["sha256"] is None:
        return ok(what, f"{about}, complete; its checksum is unknown")
    if bytes_ > LARGE and not checksums:
        return ok(what, f"{about}; --doctor.checksums true compares its checksum")
    hashed = _sha256(path, name)
    if hashed == entry["sha256"]:
        return ok(what, f"{about}, the checksum is correct")
    return broken(what, f"{path} is not the published file, its SHA-256 is {hashed}: {fix}")


def _damage(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "empty"
    for beginning, what in OTHERS.items():
        if start.startswith(beginning):
            return what
    # A zip file ends with its directory, which a truncated file lacks.
    return "truncated" if start.startswith(b"PK") and not zipfile.is_zipfile(path) else None


def _sha256(path: Path, name: str) -> str:
    bytes_ = path.stat().st_size
    if bytes_ <= LARGE:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    from tqdm import tqdm

    whole = hashlib.sha256()
    # disable=None: show a bar only on a terminal.
    bar = tqdm(total=bytes_, desc=name, unit="B", unit_scale=True, leave=False, disable=None)
    with bar, path.open("rb") as file:
        while chunk := file.read(CHUNK):
            whole.update(chunk)
            bar.update(len(chunk))
    return whole.hexdigest()


def _by_user(names: list[str], entries: dict[str, Entry], folder: str) -> str:
    """Return ``LPIPS (alexnet, vgg16), FID (fid-inception)``, by the manifest's classes."""
    users: dict[str, list[str]] = {}
    for name in names:
        user = entries[name]["used_by"].partition(folder)[2].split()[0].rstrip(",")
        users.setdefault(user.rpartition(".")[2], []).append(name)
    return ", ".join(f"{user} ({', '.join(files)})" for user, files in users.items())
