"""Pack a part of the inputs: some of their blocks, each with a journal of its own.

Blocks lie in ``OUT/NAME.parts`` until they are joined. A block is done when its journal ends; until
then it is packed again from its beginning. Which part packed it is not recorded, so the number of
parts may change at any time. A command without parts packs part 1 of 1.
"""

from __future__ import annotations

import logging
import re
from argparse import Namespace
from collections import deque
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.pack.images import Outcome
from datamodules.pack.inputs import Inputs
from datamodules.pack.journal import Journal, Stage, is_done, own_shards, read_journal
from datamodules.pack.packing import Packing, Progress, differences, processed, writing
from datamodules.pack.report import Files
from datamodules.parts import blocks_of, digest_of, read_about, write_about
from datamodules.shards.writer import ShardWriter, find_shards
from files.owned import UNFINISHED, remove_file, remove_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Blocks:
    """The blocks of a list of inputs.

    Attributes:
        out: Folder of the finished shards.
        name: Prefix of their names.
        count: Number of inputs.
        size: Number of inputs in each block but the last.
        digest: Hash of what the shards depend on.
    """

    out: Path
    name: str
    count: int
    size: int
    digest: str

    @classmethod
    def of(cls, job: dict[str, Any], out: Path, name: str, size: int) -> Blocks:
        """Return the blocks of a job."""
        return cls(out, name, job["inputs"]["count"], size, digest_of(job))

    @property
    def folder(self) -> Path:
        """Folder of the blocks."""
        return self.out / f"{self.name}.parts"

    @property
    def joined(self) -> Path:
        """Journal of the finished shards."""
        return self.out / f"{self.name}.journal.jsonl"

    @property
    def about(self) -> Path:
        """File with what the blocks depend on."""
        return self.folder / "parts.json"

    def __len__(self) -> int:
        """Return the number of blocks."""
        return -(-self.count // self.size)

    def numbers(self, block: int) -> range:
        """Return the inputs of a block."""
        return range(block * self.size, min((block + 1) * self.size, self.count))

    def of_part(self, part: int, parts: int) -> range:
        """Return the blocks of part 1, 2, ... of some."""
        return blocks_of(part, parts, len(self))

    def shards_name(self, block: int) -> str:
        """Return the prefix of a block's shards."""
        return f"{self.name}-{block:06d}"

    def journal(self, block: int) -> Path:
        """Return the path of a block's journal."""
        return self.folder / f"{self.shards_name(block)}.journal.jsonl"

    def stages(self, block: int) -> list[Stage] | None:
        """Return the stages of a block that is done, or None."""
        job, stages = read_journal(self.journal(block))
        return stages if job == self.job(block) and is_done(stages) else None

    def done(self, block: int) -> list[Stage]:
        """Return the stages of a block.

        Raises:
            ValueError: If another process has begun it again since all blocks were there.
        """
        stages = self.stages(block)
        if stages is None:
            raise ValueError(
                f"{self.journal(block)} was begun again while the parts were joined: wait for "
                "that process, or stop it, and run this command again"
            )
        return stages

    def job(self, block: int) -> dict[str, Any]:
        """Return the first line of a block's journal."""
        return {"block": block, "of": self.digest}

    def joined_until(self) -> tuple[int, int]:
        """Return the input, and the sample of it, up to which shards were joined already."""
        stages = read_journal(self.joined)[1]
        return max((stage.next for stage in stages if stage.shard), default=(0, 0))

    def is_whole(self, block: int, joined: tuple[int, int]) -> bool:
        """Return whether a block is done, with all its shards that were not joined yet.

        Args:
            block: The block.
            joined: The result of ``joined_until``.
        """
        stages = self.stages(block)
        return stages is not None and all(
            stage.next <= joined or _has(self.folder / stage.shard, stage.size)
            for stage in stages
            if stage.shard
        )

    def clear(self, block: int) -> None:
        """Remove the shards of a block."""
        for path in find_shards(self.folder, self.shards_name(block), parts=True):
            remove_file(path)

    def known(self, path: str) -> bool:
        """Return whether a path below the folder is a file of this program."""
        tar = r"-\d{6,}\.tar(\.part|\.idx\.json)?"
        block = rf"{re.escape(self.name)}-\d{{6,}}(\.journal\.jsonl|{tar})"
        ours = path == self.about.name or re.fullmatch(block, path, re.ASCII) is not None
        return ours or UNFINISHED.fullmatch(path) is not None


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


# -------------------------------------------------------------------------------------------- parts
def begin(blocks: Blocks, job: dict[str, Any], overwrite: bool) -> None:
    """Begin the journal of the finished shards, or compare with it.

    Args:
        blocks: The blocks.
        job: What the shards depend on.
        overwrite: Whether to remove what an earlier command has made.

    Raises:
        ValueError: If there are other shards, or a finished one was damaged.
    """
    with Journal(blocks.joined) as journal:
        if not overwrite:
            is_finished(blocks, job)
        if journal.job and not overwrite and not differences(journal.job, job):
            for stage in journal.finished:
                if not _has(blocks.out / stage.shard, stage.size):
                    raise ValueError(
                        f"{blocks.out / stage.shard} was finished but is missing or has another "
                        "size: restore it, or give --overwrite to start again"
                    )
            return
        files = Files.of(blocks.out, blocks.name)
        for path in own_shards(blocks.out, blocks.name, journal, [files.report, files.lines]):
            remove_file(path)
        if overwrite and blocks.folder.exists():
            remove_folder(blocks.folder, blocks.known)
        journal.begin(job)


def is_finished(blocks: Blocks, job: dict[str, Any]) -> bool:
    """Return whether all blocks were joined.

    Raises:
        ValueError: If shards or parts of another job are there.
    """
    then = read_about(blocks.about, "OUT or --name")
    if found := differences(then["job"], job) if then else []:
        raise ValueError(
            f"{blocks.folder} has parts that were made otherwise ({'; '.join(found)}): give the "
            "options of the other parts, another OUT or --name, or --overwrite without --part"
        )
    then, stages = read_journal(blocks.joined)
    found = differences(then, job) if then else []
    if (found or not then) and find_shards(blocks.out, blocks.name):
        how = f" (made otherwise: {'; '.join(found)})" if found else ""
        raise ValueError(
            f"{blocks.out} already has shards named {blocks.name}-*.tar{how}: run the same command "
            "as before to continue, or give another OUT or --name, or --overwrite to replace them"
        )
    return is_done(stages) and not found


def pack_part(
    part: tuple[int, int], blocks: Blocks, job: dict[str, Any], inputs: Inputs, options: Namespace
) -> int | None:
    """Pack the blocks of one part that are not done yet.

    Args:
        part: Its number, and the number of all parts.
        blocks: All blocks.
        job: What the shards depend on.
        inputs: All inputs.
        options: Options of the command.

    Returns:
        The number of inputs that were refused now; None if the part was packed already.

    Raises:
        ValueError: If other shards are there, or they cannot be written.
    """
    if is_finished(blocks, job):
        return None
    joined = begin_part(blocks, job, part[1])
    mine = blocks.of_part(*part)
    todo = [block for block in mine if not blocks.is_whole(block, joined)]
    if not todo:
        return None
    if len(todo) < len(mine):
        log.info("continuing with %d of %d blocks", len(todo), len(mine))
    return _pack(blocks, todo, joined, inputs, options)


def begin_part(blocks: Blocks, job: dict[str, Any], parts: int) -> tuple[int, int]:
    """Note what all parts depend on.

    Args:
        blocks: The blocks.
        job: What the shards depend on.
        parts: Number of all parts.

    Returns:
        The input, and the sample of it, up to which shards were joined already.

    Raises:
        ValueError: If parts are being joined.
    """
    write_about(blocks.about, job, parts)
    joined = blocks.joined_until()
    if joined > (0, 0):  # --finish has begun: raise if it still runs
        with Journal(blocks.joined):
            pass
    return joined


def _pack(
    blocks: Blocks, todo: list[int], joined: tuple[int, int], inputs: Inputs, options: Namespace
) -> int:
    """Pack blocks, and return the number of refused inputs."""
    spans = [blocks.numbers(block) for block in todo]
    refused = 0
    with (
        Progress(sum(map(len, spans))) as progress,
        closing(processed(inputs.entries, spans, options)) as made,
    ):
        outcomes = progress.counted(made)
        for block, span in zip(todo, spans, strict=True):
            with Journal(blocks.journal(block)) as journal:
                some = zip(span, outcomes, strict=False)
                if blocks.is_whole(block, joined):  # another process was quicker
                    deque(some, 0)
                    continue
                blocks.clear(block)
                write_block(blocks, block, journal, some, options)
                refused += sum(len(stage.refused) for stage in journal.stages)
    return refused


def write_block(
    blocks: Blocks,
    block: int,
    journal: Journal,
    outcomes: Iterable[tuple[int, Outcome]],
    options: Namespace,
) -> None:
    """Write a block from its beginning.

    Args:
        blocks: The blocks.
        block: Which one.
        journal: Its journal; the shards are named as it is.
        outcomes: Number of each of its inputs, and what became of it.
        options: Options of the command.

    Raises:
        ValueError: If a shard cannot be written.
    """
    journal.begin(blocks.job(block))
    name = journal.path.name.removesuffix(".journal.jsonl")
    writer = ShardWriter(blocks.folder, name, options.samples_per_shard, options.shard_size)
    packing = Packing(journal, writer, blocks.numbers(block).stop)
    with writing(blocks.folder, writer):
        for number, outcome in outcomes:
            packing.take(number, outcome)
        packing.end()
