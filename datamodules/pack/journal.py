"""The packer's journal, and its worker processes.

The first line has the inputs and options. Each finished shard adds a line, written when the shard
has its final name: the inputs in it, by their hashes, and the inputs that were refused or left out
since the previous shard. The last line marks the end.
"""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

from datamodules.shards.writer import ShardWriter, find_shards
from files.owned import remove_file

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]
log = logging.getLogger(__name__)
VERSION = 1
BEGINNING = b'{"journal":'  # of the first line


@dataclass
class Stage:
    """The work from one finished shard to the next.

    Attributes:
        next: The input, and the sample of it, with which the next shard begins.
        shard: Name of the shard; "" in the last line.
        size: Size of the shard in bytes.
        samples: Number of samples in it.
        checksum: xxh3_128 of the shard, hexadecimal.
        kept: Number and hash of each input that begins in it.
        refused: Number, reason and message of each refused input.
        duplicates: Number of each duplicate, number of the input it equals, and its hash.
        notes: Numbers of the inputs with each event.
    """

    next: tuple[int, int] = (0, 0)
    shard: str = ""
    size: int = 0
    samples: int = 0
    checksum: str = ""
    kept: list[tuple[int, str]] = field(default_factory=list)
    refused: list[tuple[int, str, str]] = field(default_factory=list)
    duplicates: list[tuple[int, int, str]] = field(default_factory=list)
    notes: dict[str, list[int]] = field(default_factory=dict)

    def note(self, what: str, number: int) -> None:
        """Note an event of an input."""
        self.notes.setdefault(what, []).append(number)

    def finished(self, writer: ShardWriter, next_: tuple[int, int]) -> Stage:
        """Complete the writer's shard, and this stage with it.

        Args:
            writer: It has at least one sample.
            next_: The input, and the sample of it, with which the next shard begins.

        Raises:
            OSError: If the shard cannot be written.
        """
        self.next, self.samples = next_, writer.samples
        path = writer.finish()
        self.shard, self.size, self.checksum = path.name, path.stat().st_size, writer.checksum
        return self

    @property
    def short(self) -> Stage:
        """Return the stage without its inputs."""
        return Stage(self.next, self.shard, self.size, self.samples, self.checksum)


class Journal:
    """The journal's file, open for one process.

    Args:
        path: Path of the file; its folder is created.

    Raises:
        ValueError: If another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._lock()
        self.job: dict[str, Any] = {}
        self._short: list[Stage] = []  # millions of inputs would not fit into memory
        self._read()

    def __enter__(self) -> Journal:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file; remove it if the journal was never begun."""
        if not self._file.closed and os.fstat(self._file.fileno()).st_size == 0:
            remove_file(self.path)
        self._file.close()

    @property
    def done(self) -> bool:
        """Whether everything is packed."""
        return bool(self._short) and not self._short[-1].shard

    @property
    def finished(self) -> list[Stage]:
        """The stages that ended with a shard, without their inputs."""
        return [stage for stage in self._short if stage.shard]

    @property
    def stages(self) -> Iterator[Stage]:
        """All stages with their inputs, read from the file one by one."""
        return read_journal(self.path)[1]

    def begin(self, job: dict[str, Any]) -> None:
        """Clear the journal, and write its first line.

        Args:
            job: Inputs and options, in types that JSON keeps.
        """
        self._file.truncate(0)
        self.job, self._short = job, []
        self._write({"journal": VERSION, "job": job})

    def append(self, stage: Stage) -> None:
        """Append a stage; it is on the disk when this returns."""
        self._write(vars(stage))
        self._short.append(stage.short)

    def _write(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                log.debug("%s: this file system has no locks: %s", self.path, error)
                return
            self._file.close()
            raise ValueError(
                f"{self.path} is in use: another process packs these shards; wait for it, or give "
                "another folder or --name"
            ) from error

    def _read(self) -> None:
        self._file.seek(0)
        first = self._file.readline()
        if first and not first.startswith(BEGINNING[: len(first)]):
            self._file.close()
            raise ValueError(
                f"{self.path} is another program's file and would be replaced: move it away, or "
                "give another folder or name"
            )
        job = _job(first)
        if job is None:
            return
        self.job, good = job, len(first)
        for length, stage in _stages(self._file):
            self._short.append(stage.short)
            good += length
        self._file.truncate(good)


def read_journal(path: Path) -> tuple[dict[str, Any], Iterator[Stage]]:
    """Return job and stages of a journal that another process may be writing.

    Args:
        path: Its path; a missing one is empty.
    """
    if not path.is_file():
        return {}, iter(())
    with path.open("rb") as file:
        job = _job(file.readline())
    return job or {}, _stages_of(path) if job is not None else iter(())


def _stages_of(path: Path) -> Iterator[Stage]:
    with path.open("rb") as file:
        file.readline()
        for _, stage in _stages(file):
            yield stage


def _job(line: bytes) -> dict[str, Any] | None:
    first = _parsed(line) if line.startswith(BEGINNING) else None
    return first["job"] if first is not None and first.get("journal") == VERSION else None


def _stages(file: IO[bytes]) -> Iterator[tuple[int, Stage]]:
    for line in file:
        # A line that a kill or a full disk cut off does not count.
        stage = _stage(_parsed(line) or {})
        if stage is None:
            return
        yield len(line), stage


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _stage(content: dict[str, Any]) -> Stage | None:
    try:
        first, second = content["next"]
        return Stage(
            next=(first, second),
            shard=content["shard"],
            size=content["size"],
            samples=content["samples"],
            checksum=content.get("checksum", ""),
            kept=[(number, digest) for number, digest in content["kept"]],
            refused=[(number, reason, message) for number, reason, message in content["refused"]],
            duplicates=[(one[0], one[1], (*one, "")[2]) for one in content["duplicates"]],
            # A journal of 0.1.0 has counts.
            notes={
                what: [-1] * numbers if isinstance(numbers, int) else list(numbers)
                for what, numbers in content["notes"].items()
            },
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None


def counted(number: int, what: str) -> str:
    """Return ``1 shard`` or ``2 shards``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


Item = TypeVar("Item")
Result = TypeVar("Result")
Prepare = Callable[[list[Item]], Iterable[Item]]
CHUNK = 4  # inputs sent to a worker at once: a message costs as much as a tiny image
AHEAD = 3  # chunks queued or finished per worker; more would only take memory
FEW = 16  # so few inputs do not justify starting processes


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    count: int | None = None,
    prepare: Prepare[Item] | None = None,
    chunk: int = CHUNK,
) -> Generator[Result, None, None]:
    """``map(function, items)`` in several processes, which end with this one, however it ends.

    Args:
        function: A picklable function that depends only on its argument.
        items: Its arguments; a few are processed in this process.
        workers: Largest number of processes; with 1, everything runs in this process.
        count: Number of items, if they have no length.
        prepare: Prepares some items, where they are processed, such as by downloads.
        chunk: Number of items that are sent to a process at once.

    Raises:
        ValueError: If a worker died.
    """
    count = len(items) if isinstance(items, Sized) else count
    workers = min(workers, -(-(count or 0) // FEW))
    if workers <= 1:
        for some in _chunks(items, chunk):
            yield from map(function, some if prepare is None else prepare(some))
        return
    # Not a fork of this process, which has threads (of the progress bar), and whose open pipe ends
    # would keep orphans waiting.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start)
    try:
        yield from _ordered(pool, partial(_each, function, prepare), _chunks(items, chunk), workers)
    except BrokenProcessPool as error:
        raise ValueError(
            "a worker process died, perhaps out of memory: run the same command with fewer "
            "--workers; it continues where it stopped (--workers 1 shows an image that kills its "
            "decoder)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _ordered(
    pool: ProcessPoolExecutor,
    function: Callable[[list[Item]], list[Result]],
    chunks: Iterable[list[Item]],
    workers: int,
) -> Iterator[Result]:
    waiting: deque[Future[list[Result]]] = deque()
    for chunk in chunks:
        waiting.append(pool.submit(function, chunk))
        if len(waiting) >= AHEAD * workers:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    source = iter(items)
    return iter(lambda: list(islice(source, size)), [])


def _each(
    function: Callable[[Item], Result], prepare: Prepare[Item] | None, items: list[Item]
) -> list[Result]:
    return [function(item) for item in (items if prepare is None else prepare(items))]


def _start() -> None:
    # The terminal sends Ctrl-C to all processes of the command; the main one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)  # the parent was killed, so this work is not needed


def own_shards(out: Path, name: str, journal: Journal, others: Sequence[Path]) -> list[Path]:
    """Return the files of earlier shards, which may be removed for new ones.

    Args:
        out: The folder.
        name: Prefix of the shards' names.
        journal: Lists the shards that were written here.
        others: Further files that are written beside the shards.

    Raises:
        ValueError: If the journal does not list one of the files.
    """
    own = {stage.shard for stage in journal.finished}
    if journal.job and not journal.done:
        own.add(f"{name}-{len(journal.finished):06d}.tar")
    shards = find_shards(out, name, parts=True)
    others = [path for path in others if os.path.lexists(path)]
    unknown = [path for path in shards if _shard_of(path) not in own]
    unknown += others if not journal.job else []
    if unknown:
        raise ValueError(
            f"{unknown[0]} would be removed or replaced, and {journal.path.name} does not say that "
            "it was written here: move it away, or give another folder or name"
        )
    return [*shards, *others]


def _shard_of(path: Path) -> str:
    return path.name.lstrip(".").partition(".tar")[0] + ".tar"
