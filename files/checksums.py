"""Checksums of weights files: in a file beside them, and in the zip files that torch writes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
from pathlib import Path
from zipfile import BadZipFile, ZipFile, is_zipfile

CHUNK = 1 << 20  # bytes that are read at a time
LARGE = 1 << 20  # bytes of a file that is not hashed again while it is unchanged
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b", re.IGNORECASE)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal; that of a large one is cached."""
    state = path.stat()
    if state.st_size < LARGE:  # quick, and clocks of file systems are coarse
        return _file_hash(path)
    return _large_file_hash(path.resolve(), state.st_size, state.st_mtime_ns)


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _large_file_hash(path: Path, size: int, mtime_ns: int) -> str:
    return _file_hash(path)


def checksum_of(path: Path) -> Path:
    """Return the path ``FILE.sha256`` beside a file, where its checksum may be."""
    return path.with_name(f"{path.name}.sha256")


def stated_digests(path: Path) -> list[str]:
    """Return the SHA-256 that ``FILE.sha256`` states for a file, usually one.

    There is none if that file is missing or cannot be read.
    """
    text = ""
    with contextlib.suppress(OSError):
        text = checksum_of(path).read_text(encoding="utf-8", errors="replace")
    return [digest.lower() for digest in _DIGEST.findall(text)]


def check_intact(path: Path) -> None:
    """Raise if the bytes of a weights file contradict its checksums.

    Raises:
        ValueError: If they do; the message names the file and the fix.
    """
    stated = stated_digests(path)
    if stated and file_hash(path) not in stated:
        beside = checksum_of(path).name
        raise ValueError(
            f"{path} is damaged: its SHA-256 is not the one in {beside}; get or copy it again, or "
            f"remove {beside} if you changed the file yourself"
        )
    if not stated and is_zipfile(path):
        try:
            _read_members(path)
        except BadZipFile as error:
            raise ValueError(f"{path} is damaged ({error}): get or copy it again") from error


def check_folder(folder: Path) -> None:
    """Raise as ``check_intact`` for all weights files below a folder of diffusers."""
    for path in sorted(folder.rglob("*.safetensors")) or sorted(folder.rglob("*.bin")):
        check_intact(path)


def _read_members(path: Path) -> None:
    with ZipFile(path) as archive:
        for member in archive.infolist():
            if member.CRC == 0:  # torch can leave the checksums out
                continue
            with archive.open(member) as file:
                while file.read(CHUNK):
                    pass
