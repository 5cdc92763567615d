"""Join the parts of a packing into one set of shards: ``--finish``.

The result is that of one process, byte for byte. Shards are only renamed, except in blocks with
images that equal those of an earlier block: these images are left out, so their shards are written
again, from the shards. A stopped command continues.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from datamodules.pack.duplicates import Duplicate, find_duplicates
from datamodules.pack.images import Members, Outcome
from datamodules.pack.inputs import Inputs
from datamodules.pack.journal import Journal, Stage, read_journal
from datamodules.pack.options import (
    Settings,
    arguments_of,
    inputs_of,
    job_of,
    parse,
    settings_of,
)
from datamodules.pack.packing import LOST, Packing, Progress, begin, differences, writing
from datamodules.pack.parts import Blocks
from datamodules.pack.report import Summary, write_report
from datamodules.parts import check_whole, read_about
from datamodules.shards.index import index_places, read_index
from datamodules.shards.writer import ShardWriter
from files.owned import (
    NotOursError,
    put_in_place,
    remove_file,
    remove_folder,
    remove_leftovers,
    sync_folder,
)

log = logging.getLogger(__name__)


def finish(out: Path, name: str) -> Summary:
    """Join all parts of a folder, and write their report.

    Args:
        out: The folder.
        name: Prefix of the shards' names.

    Raises:
        ValueError: If parts are missing, or other shards are there.
        OSError: If the shards cannot be written.
    """
    at = out / f"{name}.parts"
    path = out / f"{name}.journal.jsonl"
    about = read_about(Blocks(out, name, 0, 1, "").about, "OUT or --name") or {
        "job": read_journal(path)[0],
        "parts": 1,
    }
    job = about["job"]
    if not job:
        raise ValueError(f"{at} has no parts: pack SOURCE {out} --part 1/N to N/N makes them")
    options = parse(arguments_of(job["options"], str(out)))
    settings = settings_of(options)
    blocks = Blocks.of(job, out, name, settings.samples)
    with Journal(path) as journal:
        if not journal.done:
            _check_parts(blocks, about["parts"], job["options"], journal)
        inputs = inputs_of(options)
        if found := differences(job, job_of(options, inputs)):
            raise ValueError(f"{at} was made of other inputs: {'; '.join(found)}")
        begin(journal, job, out, name, overwrite=False)
        if journal.done:
            log.info("the parts were joined already")
        else:
            _Joining(journal, blocks, inputs, settings).run()
        summary = write_report(journal, inputs, out, name)
    remove_leftovers(at, blocks.known)
    try:
        if at.exists():
            remove_folder(at, blocks.known)
    except NotOursError as error:
        log.warning("%s stays: %s", at, error)
    return summary


def _check_parts(
    blocks: Blocks, parts: int, described: dict[str, object], journal: Journal
) -> None:
    last = journal.finished[-1].next if journal.finished else (0, 0)
    # Of the block that an earlier command was joining, some shards have their final place.
    begun = last[0] // blocks.size if journal.job else None
    missing = (
        block
        for block in range(len(blocks))
        if not (blocks.stages(block) if block == begun else blocks.is_whole(block, last))
    )
    check_whole(
        *(missing, len(blocks), parts),
        lambda: ["pack", *arguments_of(described, str(blocks.out))],
    )


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
            if what != LOST:
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
        self.inputs, self.settings, self.keep = inputs, settings, settings.keep_duplicates
        self.equal: dict[int, Duplicate] = {}  # of the block

    def run(self) -> None:
        """Join them all.

        Raises:
            ValueError: If a shard is missing, or cannot be written.
        """
        count = self.blocks.count
        try:
            with Progress(count) as progress:
                duplicates = _by_block(
                    find_duplicates(self._hashes(), count, self.blocks.folder), self.blocks.size
                )
                due = next(duplicates, None)
                for block in range(len(self.blocks)):
                    self.equal = {}
                    if due is not None and due[0] == block:
                        self.equal, due = due[1], next(duplicates, None)
                    self._join_block(block)
                    progress.step(len(self.blocks.numbers(block)))
        except OSError as error:
            raise ValueError(
                f"cannot write to {self.blocks.out}: {error.strerror or error}. Make room, or fix "
                "it otherwise, and give the same command to go on"
            ) from error
        self.end()

    def _hashes(self) -> Iterator[tuple[int, str]]:
        for block in range(len(self.blocks)):
            for stage in self.blocks.done(block):
                yield from stage.kept
                if not self.keep:
                    yield from ((number, digest) for number, _, digest in stage.duplicates)

    def _join_block(self, block: int) -> None:
        stages = self.blocks.done(block)
        kept = {number for stage in stages for number, _ in stage.kept}
        if self.equal.keys() & kept and not self.keep:
            self._write_again(block, stages)
        else:
            self.join(stages)

    def note(self, stage: Stage) -> None:
        """As for any shard; the first of equal images may be in an earlier block."""
        super().note(stage)
        equal = self.equal
        hashes = {**dict(stage.kept), **{number: h for number, _, h in stage.duplicates}}
        found = [(n, equal[n].first, hashes[n]) for n in sorted(equal.keys() & hashes.keys())]
        self.stage.duplicates += found
        for number, _, digest in found if not self.keep else ():
            if equal[number].differs and ":" in digest:
                self.stage.note(LOST, number)

    # ------------------------------------------------------------------------------- written again
    def _write_again(self, block: int, stages: list[Stage]) -> None:
        """Write the shards of a block without images that equal those of earlier blocks."""
        blocks, stop = self.blocks, (self.blocks.numbers(block).stop, 0)
        before = [stage for stage in self.had[self.number :] if stage.next <= stop]
        self.number += len(before)
        if before:
            self.stage = Stage()
        if not before or before[-1].next != stop:
            writer = ShardWriter(
                *(blocks.out, blocks.name, self.settings.samples, self.settings.size, self.number)
            )
            packing = Packing(
                self.journal,
                writer,
                self.inputs.entries,
                self.settings,
                stop[0],
                _Found(self.equal),
            )
            packing.stage = self.stage
            with writing(blocks.out, writer):
                for number, outcome in self._outcomes(stages):
                    if (number + 1, 0) > packing.next:
                        packing.take(number, outcome)
                packing.flush()
            self.number, self.stage = writer.number, packing.stage
        for stage in stages:
            if stage.shard:
                _remove(blocks.folder / stage.shard)

    def _outcomes(self, stages: list[Stage]) -> Iterator[tuple[int, Outcome]]:
        """Yield what happened to each input of a block, in order, with its samples."""
        found: dict[int, Outcome] = {}
        notes: dict[int, list[str]] = {}
        for stage in stages:
            for what, numbers in stage.notes.items():
                for number in numbers if what != LOST else ():
                    notes.setdefault(number, []).append(what)
        for stage in stages:
            for number, reason, message in stage.refused:
                found[number] = Outcome([], reason=reason, message=message)
            hashes = [*((n, digest) for n, _, digest in stage.duplicates), *stage.kept]
            for number, digest in hashes:
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


class _Found:
    """The first inputs, by what was found on the disk."""

    def __init__(self, equal: dict[int, Duplicate]) -> None:
        self.equal = equal

    def first(self, number: int, outcome: Outcome) -> tuple[int, bool]:
        found = self.equal.get(number)
        return (number, False) if found is None else (found.first, found.differs)

    def has(self, outcome: Outcome) -> bool:
        return True


def _by_block(
    duplicates: Iterable[Duplicate], size: int
) -> Iterator[tuple[int, dict[int, Duplicate]]]:
    for block, found in groupby(duplicates, key=lambda duplicate: duplicate.number // size):
        yield block, {duplicate.number: duplicate for duplicate in found}


def _remove(shard: Path) -> None:
    for path in (index_places(shard, shard)[0], shard):
        remove_file(path)
