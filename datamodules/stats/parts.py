"""Measure a part of a set: some of its blocks, each kept in a file of its own when it is done.

Blocks lie in ``OUT/stats.parts`` and depend on nothing but the set. Which part has measured a block
is not recorded, so the number of parts may change at any time.
"""

from __future__ import annotations

import json
import logging
import re
import zipfile
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from datamodules.files.decode import reason_of
from datamodules.order.keys import Names
from datamodules.parts import blocks_of, digest_of, read_about, write_about
from datamodules.shards.reader import WrongBytes
from datamodules.shards.remote import RemoteError
from datamodules.stats.inputs import BLOCK, Inputs, Place, places_of
from datamodules.stats.measure import ROW, Row, measured, unreadable
from datamodules.workers import TIME_LIMIT, in_order, lost_in_decoding, time_limit
from files.owned import UNFINISHED, remove_folder, whole_file

log = logging.getLogger(__name__)
VERSION = 3  # of the blocks
Measured: TypeAlias = tuple[Row, str]
OURS = re.compile(r"block-\d{6,}-[0-9a-f]{16}\.npz|parts\.json")


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


@dataclass
class Parts:
    """The blocks of a set in a folder.

    Attributes:
        out: Folder of the results.
        job: The set, with the number of its ``blocks``; empty if there is none.
        parts: Number of parts.
    """

    out: Path
    job: dict[str, Any] = field(init=False)
    parts: int = field(init=False)

    def __post_init__(self) -> None:
        about = read_about(self.about, "--out")
        self.job, self.parts = about.get("job", {}), about.get("parts", 0)

    @property
    def folder(self) -> Path:
        """Folder of the blocks."""
        return self.out / "stats.parts"

    @property
    def about(self) -> Path:
        """File with what the blocks depend on."""
        return self.folder / "parts.json"

    def path(self, number: int) -> Path:
        """Return the file of a block; those of another set have other names."""
        return self.folder / f"block-{number:06d}-{digest_of(self.job)}.npz"

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
        job = {"version": VERSION, "paths": given, "digest": inputs.digest, "blocks": len(inputs)}
        job |= {"files": inputs.files, "tars": len(inputs.tars)}
        if self.job and overwrite:
            remove_folder(self.folder, _is_ours)
            self.job = {}
        if self.job and self.job != job:
            raise ValueError(
                f"{self.folder} has measurements of another set ({_shown(self.job)}; now "
                f"{_shown(job)}, of other names or sizes): give another --out, or --overwrite to "
                "replace them"
            )
        write_about(self.about, job, parts, {"job": self.job, "parts": self.parts})
        self.job, self.parts = job, parts

    def missing(self) -> list[int]:
        """Return the numbers of the blocks that are not measured yet."""
        return [n for n in range(self.job["blocks"]) if not self.path(n).is_file()]

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
        for number in range(self.job["blocks"]):
            yield self.read(number)


def measure_part(
    parts: Parts,
    inputs: Inputs,
    part: tuple[int, int],
    workers: int,
    seconds: float = TIME_LIMIT,
) -> None:
    """Measure the blocks of one part that are not measured yet.

    Args:
        parts: Where they are kept.
        inputs: The set.
        part: Number of the part, and of all parts.
        workers: Number of processes.
        seconds: Images that take longer are not measured.

    Raises:
        ValueError: If a worker was killed, or a tar was changed.
        OSError: If a block cannot be written, or a server not be reached.
    """
    mine = blocks_of(*part, len(inputs))
    todo = [number for number in mine if not parts.path(number).is_file()]
    if not todo:
        log.info("all of it was measured already (--overwrite measures it again)")
        return
    if len(todo) < len(mine):
        log.info("continuing with %d of %d blocks", len(todo), len(mine))
    places, found = _Places(inputs, todo), list[Measured]()
    work = in_order(
        partial(measure_place, seconds),
        *(iter(places), workers, partial(_lost, seconds), len(todo) * BLOCK),
        start=_use_one_core,
    )
    with tqdm(unit=" images", disable=None) as bar, closing(work):
        for result in work:
            if result is not None:
                found.append(result)
                bar.update()
                continue
            number, names, tar, failed = places.about.popleft()
            parts.save(number, _joined(found, names, tar, failed))
            found = []


def measure_place(seconds: float, place: Place | None) -> Measured | None:
    """Read and measure an image; return what was measured, and why it cannot be read.

    Args:
        seconds: Time limit of a worker.
        place: The image, or None at the end of a block.

    Raises:
        ValueError: If a tar was changed.
        RemoteError: If a server cannot be reached.
    """
    if place is None:
        return None
    try:
        data = place.read()
    except WrongBytes as error:
        return unreadable(error.reason), f"{place.name}: {error}"
    except RemoteError:
        raise
    except OSError as error:
        return unreadable(reason_of(error)), f"{place.name}: {error.strerror or error}"
    with time_limit(seconds):
        return measured(data, place.name)


def _lost(seconds: float, place: Place | None, reason: str) -> Measured:
    name = place.name if place is not None else ""
    return unreadable(reason), lost_in_decoding(name, reason, seconds)


def _use_one_core() -> None:
    cv2.setNumThreads(1)  # a process a core


class _Places:
    """Iterates over the images of blocks, with None after each block, and remembers the rest."""

    def __init__(self, inputs: Inputs, numbers: list[int]) -> None:
        self.inputs, self.numbers = inputs, numbers
        self.about: deque[tuple[int, Names, str, str]] = deque()  # number, names, tar, failed

    def __iter__(self) -> Iterator[Place | None]:
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
            self.about.append((number, Names.of(place.name for place in places), tar, failed))
            yield from places
            yield None


def _joined(found: list[Measured], names: Names, tar: str, failed: str) -> Block:
    rows = np.array([row for row, _ in found], ROW) if found else np.zeros(0, ROW)
    messages = {number: text for number, (_, text) in enumerate(found) if text}
    return Block(rows, names, messages, tar, failed)


def _is_ours(path: str) -> bool:
    return OURS.fullmatch(path) is not None or UNFINISHED.fullmatch(path) is not None


def _shown(job: dict[str, Any]) -> str:
    paths = ", ".join(map(str, job.get("paths", [])))
    return f"{job.get('files')} files and {job.get('tars')} tars of {paths}"
