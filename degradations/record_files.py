"""Files of recorded parameters: one per rank, indexed by the seeds of the images."""

from __future__ import annotations

import json
import logging
import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from files.paths import open_regular

log = logging.getLogger(__name__)

Json = dict[str, Any]

_SEED = re.compile(rb'\{"seed":(-?\d{1,19}),')  # start of a line, for fast indexing
_START = b'{"seed":'
_FIELDS = frozenset({"seed", "shape", "scale", "recipe", "params"})
_TAIL = 1 << 20  # bytes that are searched for the last complete line


class Index:
    """Index of the lines of files by seed.

    Args:
        paths: The files.

    Raises:
        ValueError: A line is damaged; the message names file and line.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        seeds, places = array("q"), array("q")  # a place: file, line, offset
        for number, path in enumerate(paths):
            with open_regular(path) as file:
                offset = 0
                for line_number, line in enumerate(file, 1):
                    seed = _SEED.match(line)
                    if seed is None or not line.endswith(b"}\n"):
                        raise _damage_error(f"{path}:{line_number}", line)
                    seeds.append(int(seed[1]))
                    places.extend((number, line_number, offset))
                    offset += len(line)
        order = np.argsort(np.asarray(seeds, np.int64), kind="stable")
        self._seeds = np.asarray(seeds, np.int64)[order]
        self._places = np.asarray(places, np.int64).reshape(-1, 3)[order]

    def __len__(self) -> int:
        return len(self._seeds)

    def of_seed(self, seed: int) -> Iterator[tuple[str, Json]]:
        """Yield the records of a seed with their file and line, the latest first."""
        first, end = np.searchsorted(self._seeds, [seed, seed + 1])
        for number, line_number, offset in self._places[first:end][::-1].tolist():
            path = self.paths[number]
            with open_regular(path) as file:
                file.seek(offset)
                line = file.readline()
            where = f"{path}:{line_number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise _damage_error(where, line) from error
            if not (
                isinstance(record, dict) and record.keys() >= _FIELDS and record["seed"] == seed
            ):
                raise _damage_error(where, line)
            yield where, record


def path_of_rank(path: Path, rank: int) -> Path:
    """Return the file of a rank; rank 0 has the path itself."""
    return path.with_name(f"{path.stem}.rank{rank}{path.suffix}") if rank else path


def files_of_ranks(path: Path) -> list[Path]:
    """Return the files of all ranks that recorded to a path."""
    name = re.compile(rf"{re.escape(path.stem)}(\.rank\d+)?{re.escape(path.suffix)}")
    if not path.parent.is_dir():
        return []
    return sorted(p for p in path.parent.iterdir() if name.fullmatch(p.name) and p.is_file())


def check_file(path: Path) -> None:
    """Check that an existing file can be continued, and cut off an incomplete last line.

    Raises:
        ValueError: It does not hold records.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        start = file.read(len(_START))
        whole = _START.startswith(start)
        size = file.seek(0, os.SEEK_END)
        first = file.seek(max(0, size - _TAIL))
        tail = file.read()
        torn = tail[tail.rfind(b"\n") + 1 :]
        if not whole or not _START.startswith(torn[: len(_START)]):
            raise ValueError(
                f"Record.path {str(path)!r} exists but holds no records: choose another path"
            )
        if torn:
            # A run that was killed during a write repeats that batch.
            log.warning("%s: its last line is incomplete and is removed", path)
            file.truncate(first + len(tail) - len(torn))


def _damage_error(where: str, line: bytes) -> ValueError:
    return ValueError(
        f"{where} is damaged, or not a record: {line[:60]!r}; expected a line of "
        '{"seed": ..., "shape": ..., "scale": ..., "recipe": ..., "params": {...}}'
    )
