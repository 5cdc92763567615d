"""Put processed inputs into the shards of a **block**, which is ``--samples-per-shard`` inputs.

Shards depend on the list of inputs alone: with every block, a new shard begins. So blocks can be
packed in any order and on any machine, and the inputs that are refused or left out in one do not
move the samples of another.
"""

from __future__ import annotations

import logging
import time
from argparse import Namespace
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from datamodules.pack.images import Outcome, lost, process
from datamodules.pack.journal import Journal, Stage
from datamodules.pack.options import recipe_of
from datamodules.pack.places import Entry
from datamodules.shards.writer import ShardWriter
from datamodules.workers import in_order

Item = TypeVar("Item")
log = logging.getLogger(__name__)
SILENCE = 60  # seconds between log lines if there is no progress bar
NO_CAPTION = "images without a caption"


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return how two jobs differ, each in a few words."""
    before, after = then.get("options", {}), now["options"]
    found = [
        f"{name} was {before.get(name)!r}, now it is {value!r}"
        for name, value in after.items()
        if before.get(name) != value
    ]
    if not found and then.get("inputs") != now["inputs"]:
        had, has = (job.get("inputs", {}).get("count") for job in (then, now))
        found.append(f"SOURCE had {had} images, now it has {has}, of other names or sizes")
    return found


def processed(
    entries: Sequence[Entry], spans: Sequence[range], options: Namespace
) -> Generator[Outcome, None, None]:
    """Yield what becomes of inputs.

    Args:
        entries: All inputs.
        spans: Those to process.
        options: Options of the command.

    Raises:
        ValueError: If a worker died.
    """
    recipe = recipe_of(options)
    return in_order(
        partial(process, recipe),
        map(entries.__getitem__, chain.from_iterable(spans)),
        options.workers,
        partial(lost, recipe),
        count=sum(map(len, spans)),
    )


@contextmanager
def writing(out: Path, writer: ShardWriter) -> Iterator[None]:
    """Give up the unfinished shard after an error.

    Raises:
        ValueError: Instead of an ``OSError``: what could not be read is an outcome.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot write to {out}: {error.strerror or error}. What is finished stays: make room, "
            "or fix it otherwise, and give the same command to go on"
        ) from error
    finally:
        writer.abandon()


class Progress:
    """A progress bar, or a log line a minute.

    Args:
        total: Number of inputs.
        start: Number of those that were done before.
    """

    def __init__(self, total: int, start: int = 0) -> None:
        self._bar = tqdm(total=total, initial=start, unit=" images", disable=None)
        self._done, self._total, self._said = start, total, time.monotonic()

    def __enter__(self) -> Progress:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bar."""
        self._bar.close()

    def counted(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield some inputs, and count them."""
        for item in items:
            self.step()
            yield item

    def step(self, count: int = 1) -> None:
        """Count some inputs."""
        self._done += count
        self._bar.update(count)
        if self._bar.disable and time.monotonic() - self._said > SILENCE:
            self._said = time.monotonic()
            log.info("%d of %d images", self._done, self._total)


class Packing:
    """Put the outcomes of a block into shards, in their order, and keep its journal.

    Args:
        journal: The journal of the block, which was begun.
        writer: Writes its shards.
        stop: Number of the input after its last one.
    """

    def __init__(self, journal: Journal, writer: ShardWriter, stop: int) -> None:
        self.journal, self.writer, self.stop = journal, writer, stop
        self.stage = Stage()

    def take(self, number: int, outcome: Outcome) -> None:
        """Write the samples of an input, or note why not."""
        if outcome.reason:
            self.stage.refused.append((number, outcome.reason, outcome.message))
            return
        for part, (key, members) in enumerate(outcome.samples):
            if not self.writer.has_room(members):
                self._finish((number, part))
            if part == 0:  # in the stage of its first shard
                self.stage.inputs += 1
                self.stage.note([*outcome.notes, *([] if members.get("txt") else [NO_CAPTION])])
            self.writer.add(key, members)

    def end(self) -> None:
        """Finish the last shard, and the journal."""
        if self.writer.samples:
            self._finish((self.stop, 0))
        self.stage.next = (self.stop, 0)
        self.journal.append(self.stage)

    def _finish(self, next_: tuple[int, int]) -> None:
        self.journal.append(self.stage.finished(self.writer, next_))
        self.stage = Stage()
