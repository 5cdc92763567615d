"""The packer's progress: a file of JSON lines beside the shards, from which a killed run resumes.

The first line has the inputs and options. Each finished shard adds a line, written when the shard
has its final name: the inputs in it, by their hashes, and the inputs that were refused or left out
since the previous shard. The last line marks the end.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from files.owned import remove_file

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

VERSION = 1
BEGINNING = b'{"journal":'  # of the first line


@dataclass
class Stage:
    """The work from one finished shard to the next.

    Attributes:
        next: The input, and the sample of it, with which the next shard begins.
        shard: Name of the shard; "" in the last line.
        size: Size of the shard in bytes.
        samples: Number of samples in it.
        kept: Number and hash of each input that begins in it.
        refused: Number, reason and message of each refused input.
        duplicates: Number of each duplicate, and number of the input it equals.
        notes: Counted events.
    """

    next: tuple[int, int] = (0, 0)
    shard: str = ""
    size: int = 0
    samples: int = 0
    kept: list[tuple[int, str]] = field(default_factory=list)
    refused: list[tuple[int, str, str]] = field(default_factory=list)
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


class Journal:
    """The journal's file, open for one process.

    Args:
        path: Path of the file; its folder is created.

    Raises:
        ValueError: If another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._lock()
        self.job: dict[str, Any] = {}
        self.stages: list[Stage] = []
        self._read()

    def __enter__(self) -> Journal:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file; remove it if the journal was never begun."""
        if not self._file.closed and os.fstat(self._file.fileno()).st_size == 0:
            remove_file(self.path)
        self._file.close()

    @property
    def done(self) -> bool:
        """Whether everything is packed."""
        return bool(self.stages) and not self.stages[-1].shard

    @property
    def finished(self) -> list[Stage]:
        """The stages that ended with a shard."""
        return [stage for stage in self.stages if stage.shard]

    def begin(self, job: dict[str, Any]) -> None:
        """Clear the journal, and write its first line.

        Args:
            job: Inputs and options, in types that JSON keeps.
        """
        self._file.truncate(0)
        self.job, self.stages = job, []
        self._write({"journal": VERSION, "job": job})

    def append(self, stage: Stage) -> None:
        """Append a stage; it is on the disk when this returns."""
        self._write(vars(stage))
        self.stages.append(stage)

    def _write(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                log.debug("%s: this file system has no locks: %s", self.path, error)
                return
            self._file.close()
            raise ValueError(
                f"{self.path} is in use: another process packs these shards; wait for it, or give "
                "another folder or --name"
            ) from error

    def _read(self) -> None:
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        first = _parsed(lines[0]) if lines else None
        if lines and not lines[0].startswith(BEGINNING[: len(lines[0])]):
            self._file.close()
            raise ValueError(
                f"{self.path} is another program's file and would be replaced: move it away, or "
                "give another folder or name"
            )
        if first is None or first.get("journal") != VERSION:
            return
        self.job, good = first["job"], len(lines[0])
        for line in lines[1:]:
            # A line that a kill or a full disk cut off does not count.
            stage = _stage(_parsed(line) or {})
            if stage is None:
                break
            self.stages.append(stage)
            good += len(line)
        self._file.truncate(good)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _stage(content: dict[str, Any]) -> Stage | None:
    try:
        first, second = content["next"]
        return Stage(
            next=(first, second),
            shard=content["shard"],
            size=content["size"],
            samples=content["samples"],
            kept=[(number, digest) for number, digest in content["kept"]],
            refused=[(number, reason, message) for number, reason, message in content["refused"]],
            duplicates=[(number, other) for number, other in content["duplicates"]],
            notes=Counter(content["notes"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
