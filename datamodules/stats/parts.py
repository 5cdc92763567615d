"""Measure a part of a set: some of its blocks, each kept in a file of its own when it is done.

Blocks lie in ``OUT/stats.parts`` and depend on nothing but the set. Which part has measured a block
is not recorded, so the number of parts may change at any time.
"""

from __future__ import annotations

import json
import logging
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from datamodules.order.keys import Names
from datamodules.shards.remote import RemoteError
from datamodules.stats.inputs import Inputs, Place, places_of
from datamodules.stats.measure import ROW
from datamodules.stats.workers import Measured, in_order
from files.owned import UNFINISHED, remove_folder, whole_file, write_whole

log = logging.getLogger(__name__)
VERSION = 1  # of the blocks
CHUNK = 16  # images that a worker gets at once
OURS = re.compile(r"block-\d{6,}\.npz|parts\.json")


class Block(NamedTuple):
    """A measured block.

    rows: (n,) of ``ROW``.
    names: Of its images.
    messages: Why an image cannot be read, by its number in the block.
    tar: The tar, or "".
    failed: Why the whole tar cannot be read, or "".
    """

    rows: NDArray[np.void]
    names: Names
    messages: dict[int, str]
    tar: str
    failed: str


@dataclass(frozen=True)
class Parts:
    """The blocks of a set in a folder."""

    out: Path

    @property
    def folder(self) -> Path:
        """Folder of the blocks."""
        return self.out / "stats.parts"

    def path(self, number: int) -> Path:
        """Return the file of a block."""
        return self.folder / f"block-{number:06d}.npz"

    def about(self) -> dict[str, Any]:
        """Return the set (``job``), and the number of ``blocks`` and of ``parts``; empty if new.

        Raises:
            ValueError: If the file is another program's.
        """
        path = self.folder / "parts.json"
        try:
            about = json.loads(path.read_bytes())
            return {"job": dict(about["job"])} | {k: int(about[k]) for k in ("blocks", "parts")}
        except FileNotFoundError:
            return {}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is not of this program: move it away, or give another --out"
            ) from error

    def begin(self, inputs: Inputs, given: list[str], parts: int, overwrite: bool) -> None:
        """Note what is measured, or compare with it.

        Args:
            inputs: The set.
            given: Its paths as written.
            parts: Number of parts.
            overwrite: Remove earlier blocks.

        Raises:
            ValueError: If the blocks are those of another set.
        """
        job = {"version": VERSION, "paths": given, "digest": inputs.digest}
        job |= {"files": inputs.files, "tars": len(inputs.tars)}
        then = self.about()
        if then and overwrite:
            remove_folder(self.folder, _is_ours)
            then = {}
        if then and then["job"] != job:
            raise ValueError(
                f"{self.folder} has measurements of another set ({_said(then['job'])}; now "
                f"{_said(job)}): give another --out, or --overwrite to replace them"
            )
        about = {"job": job, "blocks": len(inputs), "parts": parts}
        if then != about:
            write_whole(self.folder / "parts.json", json.dumps(about) + "\n")

    def missing(self) -> list[int]:
        """Return the numbers of the blocks that are not measured yet."""
        return [n for n in range(self.about().get("blocks", 0)) if not self.path(n).is_file()]

    def read(self, number: int) -> Block:
        """Return a block.

        Raises:
            ValueError: If its file is damaged.
        """
        path = self.path(number)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                about = json.loads(arrays["about"].tobytes())
                names = Names(arrays["names.blob"], arrays["names.starts"])
                messages = {int(n): text for n, text in about["messages"].items()}
                return Block(arrays["rows"], names, messages, about["tar"], about["failed"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} is damaged ({error}): remove it, and run its part again"
            ) from error

    def save(self, number: int, block: Block) -> None:
        """Write a block atomically.

        Raises:
            OSError: If the disk is full, or the folder not writable.
        """
        about = {"tar": block.tar, "failed": block.failed, "messages": block.messages}
        arrays: dict[str, NDArray[Any]] = {
            "rows": block.rows,
            "names.blob": block.names.blob,
            "names.starts": block.names.starts,
            "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        }
        with whole_file(self.path(number)) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def blocks(self) -> Iterator[Block]:
        """Yield all blocks in order."""
        for number in range(self.about()["blocks"]):
            yield self.read(number)


def span(blocks: int, part: tuple[int, int]) -> range:
    """Return the blocks of part 1, 2, ... of some.

    Args:
        blocks: Number of all blocks.
        part: Its number, and the number of all parts.
    """
    number, parts = part
    return range(blocks * (number - 1) // parts, blocks * number // parts)


def measure_part(parts: Parts, inputs: Inputs, part: tuple[int, int], workers: int) -> None:
    """Measure the blocks of one part that are not measured yet.

    Args:
        parts: Where they are kept.
        inputs: The set.
        part: Number of the part, and of all parts.
        workers: Number of processes.

    Raises:
        ValueError: If a worker died, or a tar was changed.
        OSError: If a block cannot be written, or a server not be reached.
    """
    mine = span(len(inputs), part)
    todo = [number for number in mine if not parts.path(number).is_file()]
    if todo and len(todo) < len(mine):
        log.info("continuing with %d of %d blocks", len(todo), len(mine))
    places, found = _Places(inputs, todo), list[Measured]()
    with tqdm(unit=" images", disable=None) as bar:
        for chunk, results in in_order(iter(places), workers):
            found += results
            bar.update(len(results))
            if chunk.last:
                number = chunk.block
                parts.save(number, _joined(found, *places.about.pop(number)))
                found = []


class Chunk(NamedTuple):
    """Images for a worker: some of a block's, and whether they are the last."""

    block: int
    last: bool
    places: list[Place]


class _Places:
    """Iterates over the chunks of blocks, and remembers what is not in them."""

    def __init__(self, inputs: Inputs, numbers: list[int]) -> None:
        self.inputs, self.numbers = inputs, numbers
        self.about: dict[int, tuple[Names, str, str]] = {}  # names, tar, failed; by block

    def __iter__(self) -> Iterator[Chunk]:
        for number, block in self.inputs.blocks(self.numbers):
            places, failed = list[Place](), ""
            try:
                places = places_of(block)
            except RemoteError as error:
                if error.kind != "content":
                    raise
                failed = str(error)
            except ValueError as error:  # a broken tar: the others go on
                failed = str(error)
            tar = block if isinstance(block, str) else ""
            self.about[number] = (Names.of(place.name for place in places), tar, failed)
            for first in range(0, max(1, len(places)), CHUNK):
                last = first + CHUNK >= len(places)
                yield Chunk(number, last, places[first : first + CHUNK])


def _joined(found: list[Measured], names: Names, tar: str, failed: str) -> Block:
    rows = np.array([row for row, _ in found], ROW) if found else np.zeros(0, ROW)
    messages = {number: text for number, (_, text) in enumerate(found) if text}
    return Block(rows, names, messages, tar, failed)


def _is_ours(path: str) -> bool:
    return OURS.fullmatch(path) is not None or UNFINISHED.fullmatch(path) is not None


def _said(job: dict[str, Any]) -> str:
    paths = ", ".join(map(str, job.get("paths", [])))
    return f"{job.get('files')} files and {job.get('tars')} tars of {paths}"
