"""``doctor``: the files of configs/weights.yaml, those that are here and those that are not."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from commands.doctor_lines import Check, Line, Options, broken, look, ok
from commands.doctor_machine import MEGABYTE, size

if TYPE_CHECKING:
    from callbacks.weights import Entry

LARGE = 256 * MEGABYTE  # bytes that are hashed only if asked for: more takes seconds
CHUNK = 16 * MEGABYTE
# How a file begins that is no weights, and what it is.
OTHERS = {
    b"version https://git-lfs": "a pointer of git-lfs in place of the file",
    b"<": "a web page in place of the file",
}


def found(options: Options) -> Iterator[Line]:
    """A line for each file that is here."""
    from callbacks.weights import manifest, place_of

    for name, entry in manifest().items():
        if (path := place_of(entry)) is not None:
            yield _judged(name, path, entry, options.checksums)


def missing(options: Options) -> Iterator[Line]:
    """What cannot be computed or run without the files that are not here."""
    from callbacks.weights import folders, manifest, place_of

    entries = manifest()
    absent = [name for name, entry in entries.items() if place_of(entry) is None]
    place = " or ".join(map(str, folders()))
    mend = f"python -m callbacks.weights --fetch NAME, or put the file into {place}"
    for folder, what in (("callbacks.", "metrics"), ("lightning_modules.", "methods")):
        names = [name for name in absent if folder in entries[name]["used_by"]]
        if names:
            users = _by_user(names, entries, folder)
            yield look(f"weights of {what}", f"not here, and needed for {users}: {mend}")
    if not absent:
        yield ok("weights", f"all {len(entries)} of configs/weights.yaml are here")


CHECKS: dict[str, Check] = {"weights": found, "missing weights": missing}


# ------------------------------------------------------------------------------------------- parts


def _judged(name: str, path: Path, entry: Entry, checksums: bool) -> Line:
    what, bytes_ = f"weights {name}", path.stat().st_size
    mend = f"replace it by the one from {entry['source']}"
    if damage := _damage(path):
        return broken(what, f"{path} is {damage}: {mend}")
    told = f"{path}, {size(bytes_)}"
    if entry["sha256"] is None:
        return ok(what, f"{told}, whole; its checksum is not known")
    if bytes_ > LARGE and not checksums:
        return ok(what, f"{told}; --doctor.checksums true compares its checksum")
    hashed = _sha256(path, name)
    if hashed == entry["sha256"]:
        return ok(what, f"{told}, the checksum is right")
    return broken(what, f"{path} is not the published file, its SHA-256 is {hashed}: {mend}")


def _damage(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "empty"
    for beginning, what in OTHERS.items():
        if start.startswith(beginning):
            return what
    # Its directory is at the end, so half a file has none.
    return "truncated" if start.startswith(b"PK") and not zipfile.is_zipfile(path) else None


def _sha256(path: Path, name: str) -> str:
    bytes_ = path.stat().st_size
    if bytes_ <= LARGE:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    from tqdm import tqdm

    whole = hashlib.sha256()
    # None: a bar only where this is a terminal.
    bar = tqdm(total=bytes_, desc=name, unit="B", unit_scale=True, leave=False, disable=None)
    with bar, path.open("rb") as file:
        while chunk := file.read(CHUNK):
            whole.update(chunk)
            bar.update(len(chunk))
    return whole.hexdigest()


def _by_user(names: list[str], entries: dict[str, Entry], folder: str) -> str:
    """``LPIPS (alexnet, vgg16), FID (fid-inception)``: by the class that the manifest names."""
    users: dict[str, list[str]] = {}
    for name in names:
        user = entries[name]["used_by"].partition(folder)[2].split()[0].rstrip(",")
        users.setdefault(user.rpartition(".")[2], []).append(name)
    return ", ".join(f"{user} ({', '.join(files)})" for user, files in users.items())
