"""Blocks: the pieces of a job, made in any order by any number of processes, and joined at the end.

A block is ``size`` inputs. Its shards lie in ``OUT/NAME.parts``; a record beside them says what
they hold. It is written when all of them are complete: a block without one is made again. At the
end the report is written, and then the shards get their names in ``OUT``. So a report that lists
shards that still have their old names is that of a joining that was stopped, and goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from datamodules.shards.index import index_places
from datamodules.shards.writer import Shard, ShardWriter, find_shards
from files.locks import try_lock
from files.owned import (
    UNFINISHED,
    NotOursError,
    put_in_place,
    remove_file,
    remove_folder,
    remove_leftovers,
    sync_folder,
    write_whole,
)

log = logging.getLogger(__name__)
Job = dict[str, Any]  # what the shards depend on, in types that JSON keeps
Report = dict[str, Any]


@dataclass
class Record:
    """What became of the inputs of a block.

    Attributes:
        shards: Its shards, under their names in the folder of the blocks.
        packed: Number of inputs in them.
        refused: Number, reason and message of each refused input.
        notes: Number of inputs with each event.
    """

    shards: list[Shard] = field(default_factory=list)
    packed: int = 0
    refused: list[tuple[int, str, str]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)

    def note(self, events: Iterable[str]) -> None:
        """Count the events of an input."""
        self.notes = dict(Counter(self.notes) + Counter(events))


@dataclass(frozen=True)
class Blocks:
    """The blocks of a job.

    Attributes:
        out: Folder of the finished shards.
        name: Prefix of their names.
        count: Number of inputs.
        size: Number of inputs in each block but the last, and of samples in a shard.
        job: What the shards depend on.
        fix: Which options to change if other shards are there, for messages.
    """

    out: Path
    name: str
    count: int
    size: int
    job: Job
    fix: str = "give another OUT or --name, or --overwrite to start again"

    @property
    def folder(self) -> Path:
        """Folder of the blocks."""
        return self.out / f"{self.name}.parts"

    @property
    def report(self) -> Path:
        """The report, which lists the finished shards."""
        return self.out / f"{self.name}.report.json"

    @property
    def about(self) -> Path:
        """File with the job, and the number of its parts."""
        return self.folder / "parts.json"

    @property
    def digest(self) -> str:
        """Hash of the job, 16 hexadecimal digits."""
        text = json.dumps(self.job, sort_keys=True).encode()
        return hashlib.blake2b(text, digest_size=8).hexdigest()

    def __len__(self) -> int:
        """Return the number of blocks."""
        return -(-self.count // self.size)

    def numbers(self, block: int) -> range:
        """Return the inputs of a block."""
        return range(block * self.size, min((block + 1) * self.size, self.count))

    def of_part(self, part: int, parts: int) -> range:
        """Return the blocks of part 1, 2, ... of some."""
        return range(len(self) * (part - 1) // parts, len(self) * part // parts)

    # -------------------------------------------------------------------------------------- begin

    def begin(self, overwrite: bool = False, parts: int | None = 1) -> None:
        """Note the job, unless it was begun before.

        Args:
            overwrite: Whether to remove what an earlier job has made.
            parts: Number of parts, for the message on those that are missing; None to join them.

        Raises:
            ValueError: If shards of another job or of another program are there, or a finished one
                is gone.
        """
        shards = find_shards(self.out, self.name, parts=True)
        report = _read(self.report)
        if overwrite:
            self._remove(report, shards)
            report, shards = {}, []
        about = _read(self.about)
        earlier = report or about
        changes = _differences(earlier["job"], self.job) if earlier else []
        if changes:
            raise ValueError(
                f"{self.out} has shards or parts that were made otherwise ({'; '.join(changes)}): "
                f"give the same command as before to continue; or {self.fix}"
            )
        begun = {"job": self.job, "parts": parts}
        if report:
            if not self.folder.exists():
                self._check_shards(report)
        elif shards:
            raise ValueError(f"{self.out} already has shards named {self.name}-*.tar: {self.fix}")
        elif parts is not None and about != begun:
            write_whole(self.about, json.dumps(begun) + "\n")

    def _check_shards(self, report: Report) -> None:
        for shard in report["shards"]:
            path = self.out / shard["name"]
            if not _has(path, shard["bytes"]):
                raise ValueError(
                    f"{path} was finished but is missing or has another size; {self.fix}"
                )

    def _remove(self, report: Report, shards: list[Path]) -> None:
        listed = {shard["name"] for shard in report.get("shards", [])}
        foreign = [path for path in shards if path.name.partition(".tar")[0] + ".tar" not in listed]
        if foreign:
            raise ValueError(
                f"{foreign[0]} would be removed or replaced, and {self.report.name} does not say "
                "that it was written here: move it away, or give another folder or name"
            )
        if self.folder.exists():
            remove_folder(self.folder, self.known)
        for path in [*shards, self.report]:
            remove_file(path)

    def known(self, path: str) -> bool:
        """Return whether a path below the folder is a file of this program."""
        block = rf"{re.escape(self.name)}-\d{{6,}}"
        ours = rf"{block}(\.json|\.lock|-\d{{6,}}\.tar(\.part|\.idx\.json)?)|parts\.json|lock"
        return re.fullmatch(ours, path, re.ASCII) is not None or bool(UNFINISHED.fullmatch(path))

    # -------------------------------------------------------------------------------------- write

    def todo(self, blocks: Iterable[int]) -> list[int]:
        """Return the blocks among some that have to be made."""
        if self.report.exists():
            return []
        return [block for block in blocks if not self._is_whole(block)]

    @contextmanager
    def writing(self, block: int, limit: int | None = None) -> Iterator[tuple[ShardWriter, Record]]:
        """Write a block from its beginning; its record is written at the end.

        Args:
            block: The block.
            limit: Bytes in each shard, at most.

        Raises:
            ValueError: If another process writes it, or it cannot be written.
        """
        name = f"{self.name}-{block:06d}"
        with self._locked(f"{name}.lock"), self._locked("lock", shared=True):
            for path in find_shards(self.folder, name, parts=True):
                remove_file(path)
            writer, record = ShardWriter(self.folder, name, self.size, limit), Record()
            try:
                yield writer, record
                writer.finish()
                record.shards = writer.shards
                content = json.dumps({"job": self.digest, **asdict(record)})
                write_whole(self._record(block), content + "\n")
            except OSError as error:
                raise ValueError(
                    f"cannot write to {self.folder}: {error.strerror or error}. What is finished "
                    "stays: make room, or fix it otherwise, and give the same command to go on"
                ) from error
            finally:
                writer.abandon()

    @contextmanager
    def _locked(self, name: str, shared: bool = False) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.folder / name, flags, 0o666)
        try:
            if not try_lock(descriptor, shared):
                raise ValueError(
                    f"{self.folder / name} is in use: another process packs these shards; wait for "
                    "it, or give another folder or name"
                )
            yield
        finally:
            os.close(descriptor)

    def _record(self, block: int) -> Path:
        return self.folder / f"{self.name}-{block:06d}.json"

    def read(self, block: int) -> Record | None:
        """Return the record of a block, or None."""
        content = _read(self._record(block))
        if content.pop("job", None) != self.digest:
            return None
        content["shards"] = [Shard(*shard) for shard in content["shards"]]
        return Record(**content)

    def _is_whole(self, block: int) -> bool:
        record = self.read(block)
        return record is not None and all(
            _has(self.folder / shard.name, shard.bytes) for shard in record.shards
        )

    # --------------------------------------------------------------------------------------- join

    def join(self, described: Callable[[list[Record]], Report]) -> Report:
        """Give the shards of all blocks their names, and return the report.

        Args:
            described: Returns what else the report says, from the records.

        Raises:
            ValueError: If a block is missing, or other processes still make some.
            OSError: If the shards cannot be written.
        """
        report = _read(self.report)
        if not report or self.folder.exists():
            with self._locked("lock"):
                report = report or self._begun(described)
                self._rename(report)
            try:
                remove_folder(self.folder, self.known)
            except NotOursError as error:  # there are files of the user
                log.warning("%s stays: %s", self.folder, error)
        remove_leftovers(self.folder, self.known)
        return report

    def _begun(self, described: Callable[[list[Record]], Report]) -> Report:
        missing = self.todo(range(len(self)))
        if missing:
            parts = _read(self.about).get("parts", 1)
            incomplete = sorted({-(-(block + 1) * parts // len(self)) for block in missing})
            raise ValueError(
                f"{len(incomplete)} of {parts} parts of {self.out} are not complete "
                f"({', '.join(map(str, incomplete))}): give this command with "
                f"--part {incomplete[0]}/{parts}, and so on, instead of --finish"
            )
        records = self._records()
        shards = [
            {**shard._asdict(), "name": f"{self.name}-{number:06d}.tar"}
            for number, shard in enumerate(chain.from_iterable(one.shards for one in records))
        ]
        report = {"job": self.job, **described(records), "shards": shards}
        write_whole(self.report, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        return report

    def _records(self) -> list[Record]:
        return [record for record in map(self.read, range(len(self))) if record is not None]

    def _rename(self, report: Report) -> None:
        sources = [shard for record in self._records() for shard in record.shards]
        if len(sources) == len(report["shards"]):  # else blocks were begun again after all
            for shard, part in zip(report["shards"], sources, strict=True):
                source, target = self.folder / part.name, self.out / shard["name"]
                # The index first: without its shard, it is never read.
                _move(index_places(source, source)[0], index_places(target, target)[0])
                _move(source, target)
            sync_folder(self.out)
        self._check_shards(report)


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _move(source: Path, target: Path) -> None:
    if os.path.lexists(source):  # else an earlier attempt has moved it
        put_in_place(source, target)


def _differences(earlier: Job, job: Job) -> list[str]:
    """Return how two jobs differ, each in a few words."""
    return [
        f"{name} was {earlier.get(name)!r}, now it is {job.get(name)!r}"
        for name in {**earlier, **job}
        if earlier.get(name) != job.get(name)
    ]


def _read(path: Path) -> dict[str, Any]:
    """Return what this program has written to a file; empty if it is missing.

    Raises:
        ValueError: If the file is another program's.
    """
    try:
        content = json.loads(path.read_bytes())
        content["job"]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not of this program, or of an earlier version: move it away, or give "
            "another folder or name"
        ) from error
    return dict(content)
