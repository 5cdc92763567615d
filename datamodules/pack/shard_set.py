"""Shards of a list of inputs: each is made alone, in any order, by any process.

Shard k holds the inputs ``k * size`` to ``(k + 1) * size``, so its bytes depend on them alone. A
command makes the shards that are missing. Beside the shards lie:

- ``NAME.json``: what all of them depend on. A command with other options or inputs is refused.
- ``NAME-000000.json``: what became of the inputs of a shard. It is written before the shard gets
  its name, so a tar without one was not written here.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from datamodules.shards.index import ShardIndex
from datamodules.shards.writer import Members, find_shards, write_shard
from files.json import read_json_object
from files.owned import free_place, hold_place, write_whole
from files.progress import bar_options

log = logging.getLogger(__name__)
SILENCE = 60  # seconds between lines without a terminal


@dataclass(frozen=True)
class Refused:
    """A refused input: its key, the reason in a word or two, and a message."""

    key: str
    reason: str
    message: str


class Outcome(NamedTuple):
    """The result of one input.

    Attributes:
        samples: Keys, and members by suffix; none if it was refused.
        refused: Why it was refused.
        notes: Events to count.
    """

    samples: Sequence[tuple[str, Members]] = ()
    refused: Refused | None = None
    notes: Sequence[str] = ()


@dataclass
class Record:
    """What became of the inputs of a shard.

    Attributes:
        inputs: Number of inputs in it.
        samples: Number of samples.
        bytes: Size of the tar; 0 if all inputs were refused, and there is none.
        refused: The refused inputs.
        notes: Number of inputs with each event.
    """

    inputs: int = 0
    samples: int = 0
    bytes: int = 0
    refused: list[Refused] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)

    def samples_of(self, outcomes: Iterator[Outcome], count: int) -> Iterator[tuple[str, Members]]:
        """Yield the samples of the next inputs, and count them."""
        for _ in range(count):
            outcome = next(outcomes)
            if outcome.refused is not None:
                self.refused.append(outcome.refused)
                continue
            self.inputs += 1
            self.samples += len(outcome.samples)
            for note in outcome.notes:
                self.notes[note] = self.notes.get(note, 0) + 1
            yield from outcome.samples


@dataclass(frozen=True)
class ShardSet:
    """The shards of a list of inputs.

    Attributes:
        out: Folder of the shards.
        name: Prefix of their names.
        count: Number of inputs.
        size: Number of inputs in each shard but the last.
    """

    out: Path
    name: str
    count: int
    size: int

    def __len__(self) -> int:
        """Return the number of shards."""
        return math.ceil(self.count / self.size)

    def path(self, shard: int) -> Path:
        """Return the path of a shard."""
        return self.out / f"{self.name}-{shard:06d}.tar"

    def inputs_of(self, shard: int) -> range:
        """Return the inputs of a shard."""
        return range(shard * self.size, min((shard + 1) * self.size, self.count))

    def begin(self, job: dict[str, Any]) -> None:
        """Write what the shards depend on, or compare it with what an earlier command wrote.

        From then on nothing is written to another folder that takes the place of this one.

        Args:
            job: What they depend on, by names of settings.

        Raises:
            ValueError: If it differs, or the shards in the folder are not of this program.
        """
        free_place(self.out)  # which an earlier command of this process may have held
        job = json.loads(json.dumps(job))  # tuples become lists, as in the file
        path = self.out / f"{self.name}.json"
        shards = find_shards(self.out, self.name)  # before the file, which was written before them
        earlier = _read_json(path)
        if earlier is None and shards:
            raise ValueError(
                f"{shards[0]} is there, but no {path.name} that says how it was made: give "
                "another folder or name"
            )
        if earlier is None:
            write_whole(path, json.dumps(job, indent=1) + "\n")
        elif earlier != job:
            names = [name for name in {**earlier, **job} if earlier.get(name) != job.get(name)]
            changes = [f"{n} was {earlier.get(n)!r}, now it is {job.get(n)!r}" for n in names]
            raise ValueError(
                f"the shards in {self.out} were made otherwise ({'; '.join(changes)}): give the "
                "same command as before to continue, or another folder or name"
            )
        hold_place(self.out)

    def missing(self, part: int = 0, parts: int = 1) -> list[int]:
        """Return the shards of a part that have to be made: those with ``shard % parts == part``.

        Raises:
            ValueError: If a shard is not the one that was written here.
        """
        return [shard for shard in range(part, len(self), parts) if not self._is_done(shard)]

    def _is_done(self, shard: int) -> bool:
        """Return whether a shard is written, or all its inputs were refused.

        Raises:
            ValueError: If another file has its name.
        """
        path, record = self.path(shard), self.record(shard)
        if not path.exists():
            return record is not None and record.bytes == 0
        if record is None or path.stat().st_size != record.bytes:
            raise ValueError(
                f"{path} is not the shard that was written here: move it away, and the same "
                "command makes it again"
            )
        return True

    def write(self, shards: Sequence[int], outcomes: Generator[Outcome, None, None]) -> None:
        """Write shards.

        Args:
            shards: Their numbers.
            outcomes: The results of all their inputs, in order; closed at the end.

        Raises:
            OSError: If they cannot be written.
        """
        total = sum(len(self.inputs_of(shard)) for shard in shards)
        with closing(outcomes):
            bar = tqdm(outcomes, "done", total, unit="images", **bar_options(SILENCE))
            shown = iter(bar)
            for shard in shards:
                self._write_shard(shard, shown)
            next(shown, None)  # or the bar's last line leaves out the last input

    def _write_shard(self, shard: int, outcomes: Iterator[Outcome]) -> None:
        """Write a shard and its record from the next results."""
        record = Record()
        samples = record.samples_of(outcomes, len(self.inputs_of(shard)))
        first = next(samples, None)

        def write_record(index: ShardIndex | None) -> None:
            record.bytes = 0 if index is None else index.size
            write_whole(self._record_path(shard), json.dumps(asdict(record), indent=1) + "\n")

        if first is None:
            write_record(None)
        else:
            write_shard(self.path(shard), chain([first], samples), write_record)

    def _record_path(self, shard: int) -> Path:
        """Return the path of what became of the inputs of a shard."""
        return self.path(shard).with_suffix(".json")

    def record(self, shard: int) -> Record | None:
        """Return what became of the inputs of a shard, or None if it was not begun."""
        content = _read_json(self._record_path(shard))
        if content is None:
            return None
        refused = [Refused(**fields) for fields in content.pop("refused")]
        return Record(**content, refused=refused)


def parse_part(text: str) -> tuple[int, int]:
    """Parse ``I/N``, part I of N, counted from 0.

    Raises:
        ValueError: If it is something else.
    """
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise ValueError(f"{text!r} is not a part; expected I/N with I from 0 to N-1, such as 0/2")
    return int(part), int(parts)


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is no such file.

    Raises:
        ValueError: If it holds something else.
    """
    if not path.exists():
        return None
    content = read_json_object(path)
    if content is None:
        raise ValueError(
            f"{path} is not of this program: move it away, or give another folder or name"
        )
    return content
