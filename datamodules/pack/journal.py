"""The packer's journal.

The first line has the inputs and options. Each finished shard adds a line, written when the shard
has its final name, with the inputs that were refused since the previous shard. The last line marks
the end.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from datamodules.shards.writer import ShardWriter, find_shards
from files.owned import remove_file

log = logging.getLogger(__name__)
VERSION = 3
BEGINNING = b'{"journal":'  # of the first line


@dataclass
class Stage:
    """The work from one finished shard to the next.

    Attributes:
        next: The input, and the sample of it, with which the next shard begins.
        shard: Name of the shard; "" in the last line.
        size: Size of the shard in bytes.
        samples: Number of samples in it.
        checksum: xxh3_128 of the shard, hexadecimal.
        inputs: Number of inputs that begin in it.
        refused: Number, reason and message of each refused input.
        notes: Number of inputs with each event.
    """

    next: tuple[int, int] = (0, 0)
    shard: str = ""
    size: int = 0
    samples: int = 0
    checksum: str = ""
    inputs: int = 0
    refused: list[tuple[int, str, str]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)

    def note(self, events: Iterable[str]) -> None:
        """Count the events of an input."""
        self.notes = dict(Counter(self.notes) + Counter(events))

    def finished(self, writer: ShardWriter, next_: tuple[int, int]) -> Stage:
        """Complete the writer's shard, and this stage with it.

        Args:
            writer: It has at least one sample.
            next_: The input, and the sample of it, with which the next shard begins.

        Raises:
            OSError: If the shard cannot be written.
        """
        self.next, self.samples = next_, writer.samples
        path = writer.finish()
        self.shard, self.size, self.checksum = path.name, path.stat().st_size, writer.checksum
        return self


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
        while True:
            self._file = path.open("a+b")
            self._lock()
            # Another process may have removed the file before it was locked here.
            if path.exists() and os.path.samestat(os.fstat(self._file.fileno()), path.stat()):
                break
            self._file.close()
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
        return is_done(self.stages)

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
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                log.warning(
                    "%s: this file system has no locks (%s), so two processes must not make the "
                    "same shards at once",
                    *(self.path, error.strerror),
                )
                return
            self._file.close()
            raise ValueError(
                f"{self.path} is in use: another process packs these shards; wait for it, or give "
                "another folder or --name"
            ) from error

    def _read(self) -> None:
        self._file.seek(0)
        first = self._file.readline()
        if first and not first.startswith(BEGINNING[: len(first)]):
            self._file.close()
            raise ValueError(
                f"{self.path} is another program's file and would be replaced: move it away, or "
                "give another folder or name"
            )
        job = _job(first)
        if job is None:
            return
        self.job, good = job, len(first)
        for length, stage in _stages(self._file):
            self.stages.append(stage)
            good += length
        self._file.truncate(good)


def is_done(stages: list[Stage]) -> bool:
    """Return whether a journal with these stages has its last line."""
    return bool(stages) and not stages[-1].shard


def read_journal(path: Path) -> tuple[dict[str, Any], list[Stage]]:
    """Return job and stages of a journal that another process may be writing.

    Args:
        path: Its path; a missing one is empty.
    """
    if not path.is_file():
        return {}, []
    with path.open("rb") as file:
        job = _job(file.readline())
        return job or {}, [] if job is None else [stage for _, stage in _stages(file)]


def _job(line: bytes) -> dict[str, Any] | None:
    first = _parsed(line) if line.startswith(BEGINNING) else None
    return first["job"] if first is not None and first.get("journal") == VERSION else None


def _stages(file: IO[bytes]) -> Iterator[tuple[int, Stage]]:
    for line in file:
        # A line that a kill or a full disk cut off does not count.
        stage = _stage(_parsed(line) or {})
        if stage is None:
            return
        yield len(line), stage


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _stage(content: dict[str, Any]) -> Stage | None:
    try:
        first, second = content.pop("next")
        return Stage((first, second), **content)
    except (KeyError, TypeError, ValueError):
        return None


def own_shards(out: Path, name: str, journal: Journal, others: Sequence[Path]) -> list[Path]:
    """Return the files of earlier shards, which may be removed for new ones.

    Args:
        out: The folder.
        name: Prefix of the shards' names.
        journal: Lists the shards that were written here.
        others: Further files that are written beside the shards.

    Raises:
        ValueError: If the journal does not list one of the files.
    """
    own = {stage.shard for stage in journal.finished}
    if journal.job and not journal.done:
        own.add(f"{name}-{len(journal.finished):06d}.tar")
    shards = find_shards(out, name, parts=True)
    others = [path for path in others if os.path.lexists(path)]
    unknown = [path for path in shards if _shard_of(path) not in own]
    unknown += others if not journal.job else []
    if unknown:
        raise ValueError(
            f"{unknown[0]} would be removed or replaced, and {journal.path.name} does not say that "
            "it was written here: move it away, or give another folder or name"
        )
    return [*shards, *others]


def _shard_of(path: Path) -> str:
    return path.name.lstrip(".").partition(".tar")[0] + ".tar"
