"""Checks of weights files and shards."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from commands.doctor.lines import BROKEN, Check, Line, Options, broken, error_text, look, ok
from commands.doctor.machine import MEGABYTE, format_bytes

if TYPE_CHECKING:
    from callbacks.weights import Entry
    from datamodules.shards.index import ShardIndex
    from datamodules.shards.remote import RetryPolicy

NAME = "shards"
MOST_LINES = 10  # about single tars
AGAIN = "download or pack it again"


class ReadableTar(NamedTuple):
    """A tar that can be read.

    Args:
        samples: Number of samples.
        size: Size in bytes.
        stored: The index stored beside it.
    """

    samples: int
    size: int
    stored: ShardIndex | None


def shards(options: Options) -> Iterator[Line]:
    """Yield a line for each tar with a problem, and one about all others."""
    if not options.shards:
        yield ok(NAME, "none given; --doctor.shards 'my/shards/*.tar' checks yours")
        return
    from tqdm import tqdm

    from datamodules.shards.remote import RetryPolicy
    from datamodules.shards.urls import is_remote, list_shards

    policy = RetryPolicy(retries=2, deadline=20.0, stall=5.0, settable=False)
    names = list_shards(list(options.shards), allow_pipes=False, policy=policy)
    far = [name for name in names if is_remote(name)]
    yield from _remote(far, policy)
    near = [Path(name) for name in names if name not in far]
    lines: list[Line] = []
    readable: list[ReadableTar] = []
    # disable=None: show a bar only on a terminal.
    for path in tqdm(near, unit=" tars", leave=False, disable=None):
        try:
            tar, notes = _check_tar(path, options.checksums)
        except (ValueError, OSError) as error:  # the message names the tar and the fix
            lines.append(broken(NAME, str(error)))
            continue
        lines += notes
        readable.append(tar)
    yield from lines[:MOST_LINES]
    if len(lines) > MOST_LINES:
        worst = broken if any(line.verdict == BROKEN for line in lines[MOST_LINES:]) else look
        yield worst(NAME, f"and {len(lines) - MOST_LINES} more lines of this kind")
    if readable:
        yield ok(NAME, _summary(len(near), readable, options.checksums))


SHARD_CHECKS: dict[str, Check] = {NAME: shards}


# ------------------------------------------------------------------------------------------- parts
def _check_tar(path: Path, checksums: bool) -> tuple[ReadableTar, list[Line]]:
    """Read a tar; return it with the problems that are not fatal."""
    from datamodules.files.decode import decode, read_size
    from datamodules.files.pairs import mixed
    from datamodules.shards.index import build_index, scattered, sort_command
    from datamodules.shards.table import table_of

    found = build_index(path, checksums=checksums)
    table = table_of(str(path), found, needed=_needed(found))
    table.check_lr(str(path))
    if "hr" in table.columns:
        hr = table.columns["hr"]
        with path.open("rb") as file:

            def image(number: int) -> bytes:
                file.seek(int(hr.offsets[number]))
                return file.read(int(hr.sizes[number]))

            decode(image(0), f"{path}: {table.keys[0]}")
            problem = mixed(table.keys, lambda number: read_size(io.BytesIO(image(number))))
            if problem is not None:
                raise ValueError(f"{path}: {problem}")
    index, line = _index(path)
    lines = [look(NAME, note) for note in table.notes]
    if without := len(table.lacking("txt")):
        lines.append(look(NAME, f"{path}: {without} of {len(table.keys)} samples have no caption"))
    lines += [line] if line is not None else []
    if apart := scattered(found):
        lines.append(
            look(
                NAME,
                f"{path}: the members of {len(apart)} samples, such as {apart[0]!r}, are not "
                "adjacent: Shards joins them, Stream and webdataset do not. To sort it: "
                f"{sort_command(path)}",
            )
        )
    if index is not None:
        _compare(path, index, found)
    return ReadableTar(len(table.keys), found.size, index), lines


def _needed(found: ShardIndex) -> str:
    # Latents of `encode` may come without images.
    return "latent" if "latent.npy" in found.members[0] else "hr"


def _index(path: Path) -> tuple[ShardIndex | None, Line | None]:
    from datamodules.shards.index import parse_index

    place = path.with_name(f"{path.name}.idx.json")
    if not place.is_file():
        return None, None
    fix = "fit rewrites it if the folder is writable; else remove it"
    try:
        index = parse_index(place.read_bytes())
    except ValueError as error:
        return None, look(NAME, f"{place} is damaged ({error_text(error)}): {fix}")
    if index is None:
        return None, look(NAME, f"{place} is of another version: {fix}")
    if index.size != path.stat().st_size:
        found = f"a tar of {index.size} bytes, but {path.name} has {path.stat().st_size}"
        return None, look(NAME, f"{place} belongs to {found}: {fix}")
    return index, None


def _compare(path: Path, index: ShardIndex, found: ShardIndex) -> None:
    for key, there, here in zip(index.keys, index.members, found.members, strict=False):
        for suffix, member in here.items():
            kept = there.get(suffix)
            if kept is None or kept[:2] != member[:2]:
                raise ValueError(
                    f"{path}: its index has {key!r} at other bytes than the tar: remove "
                    f"{path.name}.idx.json"
                )
            if None not in (kept.checksum, member.checksum) and kept.checksum != member.checksum:
                raise ValueError(
                    f"{path}: the bytes of {key}.{suffix} have changed since packing: {AGAIN}"
                )
    if index.keys != found.keys:
        raise ValueError(
            f"{path}: its index has {len(index.keys)} samples, which differ from the "
            f"{len(found.keys)} of the tar: remove {path.name}.idx.json"
        )
    if None not in (index.checksum, found.checksum) and index.checksum != found.checksum:
        raise ValueError(f"{path} has changed since packing, by its checksum: {AGAIN}")


def _remote(names: list[str], policy: RetryPolicy) -> Iterator[Line]:
    from datamodules.shards.remote import RemoteError, shown
    from datamodules.shards.shards import wanted_of

    for name in names:
        try:
            wanted_of(name, policy)
        except (RemoteError, ValueError, OSError) as error:
            yield broken(NAME, f"{shown(name)}: {error_text(error)}")
            return  # the others are probably on the same server
    if names:
        yield ok(NAME, f"{len(names)} remote tars are available; their bytes are checked when read")


def _summary(count: int, tars: list[ReadableTar], checksums: bool) -> str:
    samples, bytes_ = sum(tar.samples for tar in tars), sum(tar.size for tar in tars)
    text = f"{len(tars)} of {count} tars are complete, {samples} samples, {format_bytes(bytes_)}; "
    text += "the first image of each is readable; "
    indices = [tar.stored for tar in tars if tar.stored is not None]
    if len(indices) < len(tars):
        text += f"{len(tars) - len(indices)} without an index, which fit writes; "
    if not checksums:
        return f"{text}--doctor.checksums true compares every byte"
    compared = sum(index.checksum is not None for index in indices)
    if compared < len(tars):
        return f"{text}the checksums of {compared} are correct, the others have none"
    return f"{text}all checksums are correct"


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
    fix = f"python main.py weights --fetch NAME, or put the file into {place}"
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
