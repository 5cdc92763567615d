"""Pack blocks of inputs, in several processes, and report what became of them."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from datamodules.pack.blocks import Blocks, Record, Report
from datamodules.pack.images import Outcome, process
from datamodules.pack.inputs import Inputs
from datamodules.pack.options import recipe_of
from datamodules.pack.places import Entry, Refused
from datamodules.shards.writer import ShardWriter
from datamodules.workers import in_order
from files.progress import bar_options

Item = TypeVar("Item")
log = logging.getLogger(__name__)
SILENCE = 60  # seconds between lines without a terminal
SHOWN = 5  # refused inputs on the screen; all are in the file
NO_CAPTION = "images without a caption"


def pack(blocks: Blocks, todo: Sequence[int], entries: Sequence[Entry], options: Namespace) -> None:
    """Pack some blocks.

    Args:
        blocks: All blocks.
        todo: Those to pack.
        entries: All inputs.
        options: Options of the command.

    Raises:
        ValueError: If shards cannot be written, or a worker died.
    """
    spans = [blocks.numbers(block) for block in todo]
    numbers = list(chain.from_iterable(spans))
    processed = in_order(
        partial(process, recipe_of(options)),
        map(entries.__getitem__, numbers),
        options.workers,
        len(numbers),
    )
    with closing(processed):
        outcomes = counted(processed, len(numbers))
        for block, span in zip(todo, spans, strict=True):
            with blocks.writing(block, options.shard_size) as (writer, record):
                for number, outcome in zip(span, outcomes, strict=False):
                    _take(writer, record, number, outcome)


def _take(writer: ShardWriter, record: Record, number: int, outcome: Outcome) -> None:
    """Write the samples of an input, or note why not."""
    if outcome.reason:
        record.refused.append((number, outcome.reason, outcome.message))
        return
    for key, members in outcome.samples:
        writer.add(key, members)
    record.packed += 1
    captioned = any(members.get("txt") for _, members in outcome.samples)
    record.note([*outcome.notes, *([] if captioned else [NO_CAPTION])])


def counted(items: Iterable[Item], total: int) -> Generator[Item, None, None]:
    """Iterate over some items below a progress bar, or with a line a minute."""
    yield from tqdm(items, "done", total, unit="images", **bar_options(SILENCE))


def report_of(inputs: Inputs, records: Sequence[Record]) -> Report:
    """Return counts and refused inputs.

    Args:
        inputs: All inputs.
        records: Those of all blocks.
    """
    refused, notes = list(inputs.refused), Counter[str]()
    for record in records:
        for number, reason, message in record.refused:
            entry = inputs.entries[number]
            refused.append(Refused(entry.key, entry.where, reason, message))
        notes.update(record.notes)
    shards = [shard for record in records for shard in record.shards]
    packed = sum(record.packed for record in records)
    if notes[NO_CAPTION] == packed:
        del notes[NO_CAPTION]
    counts = {
        "inputs": len(inputs.entries) + len(inputs.refused),
        "packed": packed,
        "samples": sum(shard.samples for shard in shards),
        "shards": len(shards),
        "bytes": sum(shard.bytes for shard in shards),
        "refused": len(refused),
        "refused_by_reason": dict(Counter(one.reason for one in refused).most_common()),
        "notes": dict(sorted(notes.items())),
    }
    return {"counts": counts, "refused": [one._asdict() for one in refused]}


def print_report(report: Report, path: Path) -> None:
    """Log a summary of a report, which is at ``path``."""
    counts = report["counts"]
    for one in report["refused"][:SHOWN]:
        log.error("refused (%s): %s", one["reason"], one["message"])
    if report["refused"]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in counts["refused_by_reason"].items())
        log.error("refused by reason: %s; all are listed in %s", reasons, path)
    for note, count in counts["notes"].items():
        log.info("%s: %d", note, count)
    log.info(
        "%d images packed into %d shards (%d samples, %.1f MB), %d refused",
        counts["packed"],
        counts["shards"],
        counts["samples"],
        counts["bytes"] / 1e6,
        counts["refused"],
    )
