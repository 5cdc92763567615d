"""Join blocks into one set of shards; ``--finish`` joins those of all parts.

The result is the same for any number of parts, byte for byte. Shards are only renamed, except in
blocks with images that equal those of an earlier block: these images are left out, so their shards
are written again, from the shards. A stopped command continues.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.pack.images import Members, Outcome
from datamodules.pack.inputs import Inputs
from datamodules.pack.journal import Journal, Stage, is_done, read_journal
from datamodules.pack.options import Settings, arguments_of, inputs_of, job_of, parse, settings_of
from datamodules.pack.packing import LOST, differences
from datamodules.pack.parts import Blocks, begin, write_block
from datamodules.pack.report import Report, write_report
from datamodules.parts import check_whole, read_about
from datamodules.shards.index import index_places, read_index
from files.owned import (
    NotOursError,
    put_in_place,
    remove_file,
    remove_folder,
    remove_leftovers,
    sync_folder,
)

log = logging.getLogger(__name__)


def finish(out: Path, name: str) -> Report:
    """Join all parts of a folder, and write their report.

    Args:
        out: The folder.
        name: Prefix of the shards' names.

    Raises:
        ValueError: If parts are missing, or other shards are there.
        OSError: If the shards cannot be written.
    """
    blocks = Blocks(out, name, 0, 1, "")
    then, stages = read_journal(blocks.joined)
    about = read_about(blocks.about, "OUT or --name") or {"job": then, "parts": 1}
    job = about["job"]
    if not job:
        raise ValueError(
            f"{blocks.folder} has no parts: pack SOURCE {out} --part 1/N to N/N makes them"
        )
    options = parse(arguments_of(job["options"], str(out)))
    settings = settings_of(options)
    if not is_done(stages):
        blocks = Blocks.of(job, out, name, settings.samples)
        # Of the block that an earlier command was joining, some shards have their final place.
        joined = blocks.joined_until()
        begun = joined[0] // blocks.size if then else None
        missing = (
            block
            for block in range(len(blocks))
            if not (blocks.stages(block) if block == begun else blocks.is_whole(block, joined))
        )
        command = ["pack", *arguments_of(job["options"], str(out))]
        check_whole(missing, len(blocks), about["parts"], command)
    inputs = inputs_of(options)
    if found := differences(job, job_of(options, inputs)):
        raise ValueError(f"{blocks.folder} was made of other inputs: {'; '.join(found)}")
    return join(job, inputs, out, settings)


def join(job: dict[str, Any], inputs: Inputs, out: Path, settings: Settings) -> Report:
    """Join all blocks, and write their report.

    Args:
        job: What the shards depend on.
        inputs: All inputs.
        out: Folder of the finished shards.
        settings: Settings of the command that made the blocks.

    Raises:
        ValueError: If other shards are there, or a block is missing.
        OSError: If the shards cannot be written.
    """
    blocks = Blocks.of(job, out, settings.name, settings.samples)
    begin(blocks, job, overwrite=False)
    with Journal(blocks.joined) as journal:
        if not journal.done:
            _Joining(journal, blocks, inputs, settings).run()
        report = write_report(journal, inputs, out, settings.name)
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
        self.stage.kept += stage.kept
        self.stage.refused += stage.refused
        for what, numbers in stage.notes.items():
            self.stage.notes.setdefault(what, []).extend(numbers)

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


class _Joining(Adopting):
    """Rename or write the shards of all blocks, without later equal images.

    Args:
        journal: The journal of the finished shards.
        blocks: The blocks.
        inputs: All inputs.
        settings: Settings of the command that made the blocks.
    """

    def __init__(
        self, journal: Journal, blocks: Blocks, inputs: Inputs, settings: Settings
    ) -> None:
        super().__init__(journal, blocks)
        self.inputs, self.settings = inputs, settings
        self.first: dict[str, int] = {}  # by hash of the images
        self.captions: dict[int, str] = {}  # hashes, of the first inputs

    def run(self) -> None:
        """Join them all.

        Raises:
            ValueError: If a shard is missing, or cannot be written.
        """
        try:
            for block in range(len(self.blocks)):
                self._join_block(block)
            self.end()
        except OSError as error:
            raise ValueError(
                f"cannot write to {self.blocks.out}: {error.strerror or error}. Make room, or fix "
                "it otherwise, and give the same command to go on"
            ) from error

    def _join_block(self, block: int) -> None:
        stages = self.blocks.done(block)
        kept = {number for stage in stages for number, _ in stage.kept}
        for number, digest in _hashes(stages):
            image, _, caption = digest.partition(":")
            if self.first.setdefault(image, number) == number:
                self.captions[number] = caption
                kept.discard(number)
        if kept and not self.settings.keep_duplicates:
            self.join(self._written_again(block, stages))
            for stage in stages:
                if stage.shard:
                    _remove(self.blocks.folder / stage.shard)
        else:
            self.join(stages)

    def note(self, stage: Stage) -> None:
        """As for any shard; the first of equal images may be in an earlier block."""
        super().note(stage)
        for number, digest in _hashes([stage]):
            image, _, caption = digest.partition(":")
            first = self.first[image]
            if first == number:
                continue
            self.stage.duplicates.append((number, first, digest))
            if caption not in ("", self.captions[first]) and not self.settings.keep_duplicates:
                self.stage.note(LOST, number)

    # ------------------------------------------------------------------------------- written again
    def _written_again(self, block: int, stages: list[Stage]) -> list[Stage]:
        """Write the shards of a block without images that equal those of earlier blocks."""
        path = self.blocks.folder / f"{self.blocks.again_name(block)}.journal.jsonl"
        with Journal(path) as journal:
            if not journal.done:
                outcomes = self._outcomes(stages)
                write_block(self.blocks, block, journal, outcomes, self.settings, self.first)
            return journal.stages

    def _outcomes(self, stages: list[Stage]) -> Iterator[tuple[int, Outcome]]:
        """Yield what happened to each input of a block, in order, with its samples."""
        found: dict[int, Outcome] = {}
        notes: dict[int, list[str]] = {}
        for stage in stages:
            for what, numbers in stage.notes.items():
                for number in numbers:
                    notes.setdefault(number, []).append(what)
        for stage in stages:
            for number, reason, message in stage.refused:
                found[number] = Outcome([], reason=reason, message=message)
        for number, digest in _hashes(stages):
            image, _, caption = digest.partition(":")
            found[number] = Outcome([], image, caption, notes=tuple(notes.get(number, ())))
        kept = {number for stage in stages for number, _ in stage.kept}
        samples = self._samples(stages, sorted(kept))
        for number in sorted(found):
            content = next(samples) if number in kept else []
            yield number, found[number]._replace(samples=content)

    def _samples(self, stages: list[Stage], kept: list[int]) -> Iterator[list[tuple[str, Members]]]:
        """Yield the samples of each kept input; of its squares, the first has the number 1."""
        # With --crop, each name has the number of its square: a_s002 alone may be an input, too.
        first = "" if self.settings.recipe.crop is None else "_s001"
        keys = (self.inputs.entries[number].key + first for number in kept[1:])
        due = next(keys, None)
        samples: list[tuple[str, Members]] = []
        for key, members in self._read(stages):
            if key == due:
                yield samples
                due, samples = next(keys, None), []
            samples.append((key, members))
        yield samples

    def _read(self, stages: list[Stage]) -> Iterator[tuple[str, Members]]:
        for stage in stages:
            if not stage.shard:
                continue
            shard = self.blocks.folder / stage.shard
            index = read_index(index_places(shard, shard)[0])
            if index is None:
                raise ValueError(f"the index of {shard} is missing: its part makes it again")
            with shard.open("rb") as file:
                for key, members in zip(index.keys, index.members, strict=True):
                    content: Members = {}
                    for suffix, member in members.items():
                        file.seek(member.offset)
                        content[suffix] = file.read(member.size)
                    yield key, content


def _hashes(stages: list[Stage]) -> list[tuple[int, str]]:
    """Return number and hash of all inputs that were not refused, in their order."""
    later = [(number, digest) for stage in stages for number, _, digest in stage.duplicates]
    return sorted(
        [*later, *((number, digest) for stage in stages for number, digest in stage.kept)]
    )


def _remove(shard: Path) -> None:
    for path in (index_places(shard, shard)[0], shard):
        remove_file(path)
