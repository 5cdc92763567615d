"""Pack blocks of inputs, in several processes."""

from __future__ import annotations

import logging
import time
from argparse import Namespace
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from typing import TypeVar

from tqdm import tqdm

from datamodules.pack.blocks import Blocks, Record
from datamodules.pack.images import Outcome, process
from datamodules.pack.options import recipe_of
from datamodules.pack.places import Entry
from datamodules.pack.report import NO_CAPTION
from datamodules.shards.writer import ShardWriter
from datamodules.workers import in_order

Item = TypeVar("Item")
log = logging.getLogger(__name__)
SILENCE = 60  # seconds between log lines if there is no progress bar


def pack(blocks: Blocks, todo: Sequence[int], entries: Sequence[Entry], options: Namespace) -> int:
    """Pack some blocks, and return the number of refused inputs.

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
    made = in_order(
        partial(process, recipe_of(options)),
        map(entries.__getitem__, numbers),
        options.workers,
        len(numbers),
    )
    refused = 0
    with closing(made):
        outcomes = counted(made, len(numbers))
        for block, span in zip(todo, spans, strict=True):
            with blocks.writing(block, options.shard_size) as (writer, record):
                for number, outcome in zip(span, outcomes, strict=False):
                    _take(writer, record, number, outcome)
            refused += len(record.refused)
    return refused


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
    """Yield some items below a progress bar, or with a log line a minute."""
    said = time.monotonic()
    with tqdm(total=total, unit=" images", disable=None) as bar:
        for done, item in enumerate(items, 1):
            bar.update()
            if bar.disable and time.monotonic() - said > SILENCE:
                said = time.monotonic()
                log.info("%d of %d images", done, total)
            yield item
