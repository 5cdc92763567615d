"""Put processed inputs into shards.

Shards depend on the list of inputs alone: after every ``Settings.samples`` inputs, a **block**, a
new shard begins. So blocks can be packed in any order and on any machine, and the inputs that are
refused or left out in one do not move the samples of another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from datamodules.pack.images import Outcome, lost, process
from datamodules.pack.journal import Journal, Stage, counted, own_shards
from datamodules.pack.options import Settings
from datamodules.pack.places import Entry
from datamodules.pack.report import Files
from datamodules.pack.web import OUTAGES, Rows, fetch_all
from datamodules.shards.writer import ShardWriter, find_shards
from datamodules.workers import in_order
from files.owned import remove_file

log = logging.getLogger(__name__)
FETCHED = 4  # addresses for each connection that a worker fetches before it gets others
SILENCE = 60  # seconds between log lines if there is no progress bar
LOST = "other captions of images that were left out as equal (--keep-duplicates keeps them)"


def hash_of(outcome: Outcome) -> str:
    """Return the hash of an input as it is in the journal: of its images, and of its caption."""
    return f"{outcome.digest}:{outcome.caption}" if outcome.caption else outcome.digest


# ----------------------------------------------------------------------------------- begin or go on
def begin(journal: Journal, job: dict[str, Any], out: Path, name: str, overwrite: bool) -> None:
    """Compare with existing shards, and remove those that are not kept.

    Args:
        journal: Journal of the shards.
        job: What they depend on.
        out: Their folder.
        name: Prefix of their names.
        overwrite: Whether to start again.

    Raises:
        ValueError: If there are other shards.
    """
    found = differences(journal.job, job)
    if not journal.done and journal.job.get("boundaries") != job.get("boundaries"):
        found.append("by an earlier version, whose shards ended elsewhere")
    if journal.job and not found and not overwrite:
        _check_finished(journal.finished, out)
        for path in find_shards(out, name, parts=True):
            if path.suffix == ".part":
                remove_file(path)
        if journal.finished and not journal.done:
            log.info("continuing after %s", counted(len(journal.finished), "finished shard"))
        return
    if find_shards(out, name) and not overwrite:
        how = f" (made otherwise: {'; '.join(found)})" if journal.job else ""
        raise ValueError(
            f"{out} already has shards named {name}-*.tar{how}: run the same command as "
            "before to continue, or give another OUT or --name, or --overwrite to replace them"
        )
    files = Files.of(out, name)
    for path in own_shards(out, name, journal, [files.report, files.index]):
        remove_file(path)
    journal.begin(job)


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


def _check_finished(finished: list[Stage], out: Path) -> None:
    for stage in finished:
        path = out / stage.shard
        size = path.stat().st_size if path.is_file() else None
        if size != stage.size:
            found = "is missing" if size is None else f"has {size} bytes instead of {stage.size}"
            raise ValueError(
                f"{path} was finished but {found}: restore it, or give --overwrite to start again"
            )


# --------------------------------------------------------------------------------------------- pack
def pack(journal: Journal, entries: Sequence[Entry], out: Path, settings: Settings) -> None:
    """Pack all inputs that the journal does not have yet.

    Raises:
        ValueError: If the shards cannot be written, or an input was changed meanwhile.
    """
    start = journal.finished[-1].next[0] if journal.finished else 0
    writer = ShardWriter(out, settings.name, settings.samples, settings.size, len(journal.finished))
    packing = Packing(journal, writer, entries, settings, len(entries), Known(journal))
    with (
        Progress(len(entries), start) as progress,
        closing(processed(entries, [range(start, len(entries))], settings)) as outcomes,
        writing(out, writer),
    ):
        for number, outcome in enumerate(outcomes, start):
            packing.take(number, outcome)
            progress.step()
        packing.end()


def processed(
    entries: Sequence[Entry], spans: Sequence[range], settings: Settings
) -> Generator[Outcome, None, None]:
    """Yield what becomes of inputs; those of a list of addresses are fetched before.

    Args:
        entries: All inputs.
        spans: Those to process.
        settings: Settings of the command.

    Raises:
        ValueError: If so many addresses in a row fail that a server or the network is down, or a
            worker died.
    """
    some = map(entries.__getitem__, chain.from_iterable(spans))
    work = partial(process, settings.recipe)
    how: dict[str, Any] = {"lost": partial(lost, settings.recipe)}
    if isinstance(entries, Rows):
        fetch = partial(fetch_all, settings.connections)
        how |= {"prepare": fetch, "chunk": FETCHED * settings.connections}
    failed = 0
    with closing(in_order(work, some, settings.workers, count=sum(map(len, spans)), **how)) as made:
        for outcome in made:
            failed = failed + 1 if outcome.reason in OUTAGES else 0
            if failed >= settings.stop_after:
                raise ValueError(
                    f"the last {failed} addresses failed, so a server or the network is down "
                    f"({outcome.message}). What is finished stays: the same command goes on when "
                    "it is back (--stop-after sets the number)"
                )
            yield outcome


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
            f"cannot write to {out}: {error.strerror or error}. What is finished stays, "
            f"{counted(writer.number, 'shard')}: make room, or fix it otherwise, and give the "
            "same command to go on"
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

    def step(self, count: int = 1) -> None:
        """Count some inputs."""
        self._done += count
        self._bar.update(count)
        if self._bar.disable and time.monotonic() - self._said > SILENCE:
            self._said = time.monotonic()
            log.info("%d of %d images", self._done, self._total)


class Firsts(Protocol):
    """The first inputs with the same images."""

    def first(self, number: int, outcome: Outcome) -> tuple[int, bool]:
        """Return the first input equal to one, and whether it has another caption."""

    def has(self, outcome: Outcome) -> bool:
        """Return whether an input of these bytes was packed."""


class Known:
    """The first inputs among those that were packed, in memory.

    Args:
        journal: The inputs that were packed before.
    """

    def __init__(self, journal: Journal) -> None:
        self._first: dict[str, tuple[int, str]] = {}  # by hash: the input, hash of its caption
        for stage in journal.stages:
            for number, digest in stage.kept:
                image, _, caption = digest.partition(":")
                self._first.setdefault(image, (number, caption))

    def first(self, number: int, outcome: Outcome) -> tuple[int, bool]:
        """As in ``Firsts``; if there is none, it is this input from now on."""
        first, caption = self._first.setdefault(outcome.digest, (number, outcome.caption))
        return first, caption != outcome.caption

    def has(self, outcome: Outcome) -> bool:
        """As in ``Firsts``."""
        return outcome.digest in self._first


class Packing:
    """Put outcomes into shards, in their order, and keep the journal.

    Args:
        journal: The journal.
        writer: Writes the shards.
        entries: All inputs.
        settings: Settings of the command.
        stop: Number of the input after the last one.
        known: The first inputs with the same images.
    """

    def __init__(
        self,
        journal: Journal,
        writer: ShardWriter,
        entries: Sequence[Entry],
        settings: Settings,
        stop: int,
        known: Firsts,
    ) -> None:
        self.journal, self.writer, self.entries = journal, writer, entries
        self.keep_duplicates, self.block = settings.keep_duplicates, settings.samples
        self.stop, self.known = stop, known
        # An input may begin in the last finished shard, and end in the one that comes now.
        self.next = journal.finished[-1].next if journal.finished else (0, 0)
        self.stage = Stage()

    def take(self, number: int, outcome: Outcome) -> None:
        """Write the samples of an input, or note why not."""
        if number % self.block == 0 and self.writer.samples:
            self._finish((number, 0))
        begun = self.next[1] if number == self.next[0] else 0
        duplicates: list[tuple[int, int, str]] = []
        if begun:
            self._check_unchanged(number, outcome)
        elif outcome.reason:
            self.stage.refused.append((number, outcome.reason, outcome.message))
        else:
            first, differs = self.known.first(number, outcome)
            duplicates = [] if first == number else [(number, first, hash_of(outcome))]
            if duplicates and not self.keep_duplicates:
                self.stage.duplicates += duplicates
                if outcome.caption and differs:
                    self.stage.note(LOST, number)
                return
        for part, (key, members) in enumerate(outcome.samples[begun:], begun):
            if not self.writer.has_room(members):
                self._finish((number, part))
            if part == 0:  # in the stage of its first shard, as a restart begins after the others
                self.stage.duplicates += duplicates
                self.stage.kept.append((number, hash_of(outcome)))
                for what in outcome.notes:
                    self.stage.note(what, number)
            self.writer.add(key, members)

    def flush(self) -> None:
        """Finish the last shard."""
        if self.writer.samples:
            self._finish((self.stop, 0))

    def end(self) -> None:
        """Finish the last shard, and the journal."""
        self.flush()
        self.stage.next = (self.stop, 0)
        self.journal.append(self.stage)

    def _finish(self, next_: tuple[int, int]) -> None:
        self.journal.append(self.stage.finished(self.writer, next_))
        self.stage = Stage()

    def _check_unchanged(self, number: int, outcome: Outcome) -> None:
        if outcome.reason or not self.known.has(outcome):
            entry = self.entries[number]
            where = next(iter(entry.members.values())).where
            raise ValueError(
                f"{where} was changed since a part of it was packed "
                f"({outcome.message or 'other bytes'}): put it back, or give --overwrite"
            )
