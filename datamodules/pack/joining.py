"""Join blocks into one set of shards; ``--finish`` joins those of all parts.

The result is the same for any number of parts, byte for byte: shards are only renamed. A stopped
command continues.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

from datamodules.pack.inputs import Inputs
from datamodules.pack.journal import Journal, Stage, read_journal
from datamodules.pack.parts import Blocks, begin, is_finished
from datamodules.pack.report import Report, write_report
from datamodules.parts import read_about
from datamodules.shards.index import index_places
from files.owned import (
    NotOursError,
    put_in_place,
    remove_file,
    remove_folder,
    remove_leftovers,
    sync_folder,
)

log = logging.getLogger(__name__)


def check_complete(blocks: Blocks, job: dict[str, Any]) -> None:
    """Raise if parts are missing.

    Args:
        blocks: The blocks.
        job: What the shards depend on.

    Raises:
        ValueError: If there are some, or other shards are there.
    """
    if is_finished(blocks, job):
        return
    # Of the block that an earlier command was joining, some shards have their final place.
    joined = blocks.joined_until()
    begun = joined[0] // blocks.size if read_journal(blocks.joined)[0] else None
    missing = [
        block
        for block in range(len(blocks))
        if not (blocks.stages(block) if block == begun else blocks.is_whole(block, joined))
    ]
    parts = read_about(blocks.about, "OUT or --name").get("parts", 1)
    gone = sorted({-(-(block + 1) * parts // len(blocks)) for block in missing})
    if gone:
        raise ValueError(
            f"{len(gone)} of {parts} parts of {blocks.out} are not complete "
            f"({', '.join(map(str, gone))}): give this command with --part {gone[0]}/{parts}, and "
            "so on, instead of --finish"
        )


def join(blocks: Blocks, job: dict[str, Any], inputs: Inputs) -> Report:
    """Join all blocks, and write their report.

    Args:
        blocks: The blocks.
        job: What the shards depend on.
        inputs: All inputs.

    Raises:
        ValueError: If other shards are there, or a block is missing.
        OSError: If the shards cannot be written.
    """
    begin(blocks, job, overwrite=False)
    with Journal(blocks.joined) as journal:
        if not journal.done:
            adopt_all(journal, blocks)
        report = write_report(journal, inputs, blocks.out, blocks.name)
    remove_blocks(blocks)
    return report


def remove_blocks(blocks: Blocks) -> None:
    """Remove the folder of blocks that were joined; it stays if there are files of the user."""
    remove_leftovers(blocks.folder, blocks.known)
    try:
        if blocks.folder.exists():
            remove_folder(blocks.folder, blocks.known)
    except NotOursError as error:
        log.warning("%s stays: %s", blocks.folder, error)


class Adopting:
    """Give the shards of blocks their final names, one block after the other.

    Args:
        journal: The journal of the finished shards.
        blocks: The blocks.
    """

    def __init__(self, journal: Journal, blocks: Blocks) -> None:
        self.journal, self.blocks = journal, blocks
        self.had = journal.finished  # by an earlier command
        self.number = 0  # shards so far
        self.stage = Stage()  # of blocks without a shard, noted with the next one

    def join(self, stages: list[Stage]) -> None:
        """Adopt the shards of a block.

        Raises:
            ValueError: If one is missing.
            OSError: If it cannot be renamed.
        """
        for stage in stages:
            self.note(stage)
            if stage.shard:
                self.adopt(stage)

    def end(self) -> None:
        """Finish the journal."""
        self.stage.next = (self.blocks.count, 0)
        self.journal.append(self.stage)

    def note(self, stage: Stage) -> None:
        """Add the inputs of a block's stage to those of the next shard."""
        self.stage.inputs += stage.inputs
        self.stage.refused += stage.refused
        self.stage.note(Counter(stage.notes).elements())

    def adopt(self, stage: Stage) -> None:
        """Give a shard its final name."""
        blocks = self.blocks
        source = blocks.folder / stage.shard
        target = blocks.out / f"{blocks.name}-{self.number:06d}.tar"
        if self.number < len(self.had):  # by an earlier command
            _remove(source)
        else:
            index, place = (index_places(path, path)[0] for path in (source, target))
            if os.path.lexists(index):
                put_in_place(index, place)
            if os.path.lexists(source):
                put_in_place(source, target)
                sync_folder(blocks.out)
            if not target.is_file() or target.stat().st_size != stage.size:
                raise ValueError(f"{source} is missing: its part makes it again, by its command")
            self.stage.next, self.stage.shard, self.stage.size = stage.next, target.name, stage.size
            self.stage.samples, self.stage.checksum = stage.samples, stage.checksum
            self.journal.append(self.stage)
        self.stage = Stage()
        self.number += 1


def adopt_all(journal: Journal, blocks: Blocks) -> None:
    """Join all blocks.

    Raises:
        ValueError: If a shard is missing, or cannot be written.
    """
    adopting = Adopting(journal, blocks)
    try:
        for block in range(len(blocks)):
            adopting.join(blocks.done(block))
        adopting.end()
    except OSError as error:
        raise ValueError(
            f"cannot write to {blocks.out}: {error.strerror or error}. Make room, or fix it "
            "otherwise, and give the same command to go on"
        ) from error


def _remove(shard: Path) -> None:
    for path in (index_places(shard, shard)[0], shard):
        remove_file(path)
