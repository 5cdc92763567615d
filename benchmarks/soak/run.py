"""A run of `benchmarks.soak` and its supervisor, which types the same command again and again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

from benchmarks.soak.parts import BOARD, TRACE, Board
from datamodules.pack import __main__ as pack
from datamodules.sources.photos import photo_path

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT = 600.0  # seconds for anything that is waited for
PERIOD = 5.0  # seconds between two looks at memory
SQUARE, BATCH, WORKERS = 96, 8, 2  # the last two as in CONFIG
SERVED = [
    *("astronaut", "brick", "camera", "china", "coffee", "coins", "grass", "gravel"),
    *("hubble_deep_field", "moon", "motorcycle_left", "retina", "rocket"),
]
LOCAL, HELD_OUT = ["flower", "ihc"], ["chelsea"]
SHARD = 8  # images a shard
COMMAND = ("fit", "--config", "../soak.yaml")
CONFIG = REPOSITORY / "benchmarks" / "configs" / "soak.yaml"


class Usage(NamedTuple):
    """What a run used at a moment.

    start: Which of its processes, by number.
    age: Seconds since that had done its first batches.
    seconds: On the clock of this machine.
    memory: Resident bytes of the process that trains and of each of its workers, by their numbers.
    used: Bytes that the process that trains has from malloc, by its number; see `Board`.
    descriptors: Open in each of them, by what they are, but for shards that are in the cache: of
        these there are as many as have room, more when they are small.
    files: Of the run and its cache.
    """

    start: int
    age: float
    seconds: float
    memory: dict[int, int]
    used: dict[int, int]
    descriptors: dict[int, Counter[str]]
    files: int


class Run:
    """A run in a folder of its own.

    Args:
        folder: Its working directory.
        server: Address of the server of shards.
    """

    def __init__(self, folder: Path, server: str) -> None:
        self.folder, self.server = folder, server
        self.watch: Callable[[], object] = lambda: None  # called while something is waited for
        self.cache, self.directory = folder / "cache" / "tars", folder / "runs" / "soak"
        self.board = Board(folder / TRACE / BOARD)
        self.starts = 0
        self.usage: list[Usage] = []
        self._process: psutil.Popen | None = None
        self._family: set[psutil.Process] = set()  # workers that were seen
        self._first = self._sampled = 0.0  # when: the first batches, the latest look

    # ------------------------------------------------------------------------------ start and end

    def start(self) -> None:
        """Type the command."""
        for number in (2, 3, 4):
            self.board.write(number, 0)
        self.starts += 1
        self._family, self._first = set(), 0.0
        environment = {"OMP_NUM_THREADS": "1", "SOAK_SERVER": self.server}
        with self.log.open("wb") as file:
            self._process = psutil.Popen(
                [sys.executable, str(REPOSITORY / "main.py"), *COMMAND],
                cwd=self.folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def process(self) -> psutil.Popen:
        """The process that trains.

        Raises:
            RuntimeError: There was none yet.
        """
        if self._process is None:
            raise RuntimeError("the run was not started")
        return self._process

    @property
    def log(self) -> Path:
        """What the latest process has said."""
        return self.folder / f"start-{self.starts:03d}.log"

    def said(self, end: int | None = 4000) -> str:
        """The end of the log, so many characters; None for all."""
        text = self.log.read_text(errors="replace", encoding="utf-8")
        return text if end is None else text[-end:]

    @property
    def place(self) -> int:
        """Batches that are done."""
        return self.board.read()[1]

    def status(self) -> int | None:
        """That of the process if it has ended."""
        ended: int | None = self.process.poll()
        return ended

    def workers(self) -> list[psutil.Process]:
        """Processes that read for it."""
        try:
            workers: list[psutil.Process] = self.process.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._family |= set(workers)
        return workers

    def ended(self) -> int:
        """Wait for the end of the process and of all its workers, and give its status.

        Raises:
            RuntimeError: It took too long.
        """
        self.wait(lambda: False, "the end of the process")
        _, left = psutil.wait_procs(self._family, timeout=60)
        if left:
            raise RuntimeError(f"workers outlive their process by a minute: {left}")
        return int(self.process.wait())

    def end(self) -> None:
        """Leave no process behind."""
        if self._process is not None and self.status() is None:
            for process in [*self.workers(), self._process]:
                process.kill()
            self._process.wait()

    # ------------------------------------------------------------------------------------ waiting

    def wait(self, condition: Callable[[], bool], what: str) -> bool:
        """Wait for something to come true; False if the process ended before.

        Raises:
            RuntimeError: It took too long, and no batch was done meanwhile.
        """
        deadline, before = time.monotonic() + LIMIT, self.place
        while not condition():
            if self.status() is not None:
                return False
            self.look()
            self.watch()
            if self.place != before:
                deadline, before = time.monotonic() + LIMIT, self.place
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited {LIMIT:g} s for {what}:\n{self.said()}")
            time.sleep(0.05)
        return True

    def trains(self, batches: int = 3) -> bool:
        """Wait until the process has done some more batches; False if it ended before."""
        before = self.board.read()[2]
        return self.wait(lambda: self.board.read()[2] >= before + batches, "the next batches")

    def reaches(self, place: int) -> bool:
        """Wait for a place; False if the process ended before."""
        return self.wait(lambda: self.place >= place, f"batch {place}")

    def look(self) -> None:
        """Note what it uses, if that was not done just now."""
        now = time.monotonic()
        idle = self._process is None or self.status() is not None or not self.board.read()[2]
        if idle or now - self._sampled < PERIOD:
            return
        workers = self.workers()
        if len(workers) < WORKERS:  # at the end
            return
        self._sampled, self._first = now, self._first or now
        memory, descriptors = dict[int, int](), dict[int, Counter[str]]()
        for process in [self.process, *workers]:
            with contextlib.suppress(psutil.Error, OSError):  # it has ended
                descriptors[process.pid] = self._open_in(process)
                memory[process.pid] = process.memory_info().rss
        files = sum(
            len(names) for name in ("cache", "runs") for *_, names in os.walk(self.folder / name)
        )
        age = now - self._first
        used = {self.process.pid: self.board.read()[3]}
        self.usage.append(Usage(self.starts, age, now, memory, used, descriptors, files))

    def _open_in(self, process: psutil.Process) -> Counter[str]:
        """Open files of a process by what they are, but for those that are in the cache."""
        folder = Path(f"/proc/{process.pid}/fd")
        if not folder.is_dir():
            return Counter(all=int(process.num_fds()))
        cache, kinds = self.cache.resolve(), Counter[str]()
        for link in folder.iterdir():
            with contextlib.suppress(OSError):  # it was closed meanwhile
                path = link.readlink()
                if path.parent != cache or path.suffix != ".tar":
                    kinds[_kind(str(path))] += 1
        return kinds


def _kind(path: str) -> str:
    """What an open file is, by what Linux says of it."""
    kinds = {"socket:[": "sockets", "pipe:[": "pipes", "/dev/shm/": "shared memory"}
    for start, kind in kinds.items():
        if path.startswith(start):
            return kind
    return "shards" if ".tar" in path else "others"


# ------------------------------------------------------------------------------------ its images
def prepare(folder: Path, steps: int, seed: int) -> None:
    """Pack the shards, damage one image of them for good, and write the configuration.

    Args:
        folder: Where to.
        steps: Of the training.
        seed: Of the training.
    """
    for name, photos in {"served": SERVED, "local": LOCAL, "held_out": HELD_OUT}.items():
        (folder / f"{name}.txt").write_text(
            "".join(f"{photo_path(photo)}\n" for photo in photos), encoding="utf-8"
        )
        side = str(SQUARE)
        options = ["--crop", side, "--step", side, "--max-long-side", "400", "--workers", "1"]
        words = [str(folder / f"{name}.txt"), str(folder / name), "--samples-per-shard", str(SHARD)]
        if pack.main([*words, *options]):
            raise RuntimeError(f"the photographs could not be packed into {folder / name}")
    damage(folder / "local" / "shard-000000.tar", random.Random(seed))
    configure(folder, steps, seed)


def configure(folder: Path, steps: int, seed: int) -> None:
    """Write the configuration. Args as `prepare`."""
    content = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    content["seed_everything"] = seed
    last = len(list((folder / "served").glob("*.tar"))) - 1
    served = content["data"]["init_args"]["train"]["init_args"]["sources"]["served"]
    served["init_args"]["urls"] = f"$SOAK_SERVER/shard-{{000000..{last:06d}}}.tar"
    # Guard stops a run that leaves out more than one step of a hundred, below 1,000 steps ten.
    stages = content["degradation"]["init_args"]["stages"]
    stages[0]["init_args"]["probability"] = max(1 / 4000, 4 / (BATCH * steps))
    content["trainer"]["max_steps"] = steps
    content["trainer"]["val_check_interval"] = max(20, min(200, steps // 4))
    content["checkpoint"]["every_n_steps"] = max(5, min(50, steps // 40))
    (folder / "soak.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def damage(tar: Path, chance: random.Random, index: Path | None = None) -> None:
    """Flip bytes in the middle of a member of a shard.

    Args:
        tar: The shard.
        chance: Says which one.
        index: Of the shard; by default beside it.
    """
    samples = json.loads((index or Path(f"{tar}.idx.json")).read_text(encoding="utf-8"))["samples"]
    _key, members = chance.choice(samples)
    offset, size, *_ = chance.choice(list(members.values()))
    before = tar.stat()
    with tar.open("r+b") as file:
        file.seek(offset + size // 2)
        flipped = bytes(byte ^ 0xFF for byte in file.read(16))
        file.seek(offset + size // 2)
        file.write(flipped)
    os.utime(tar, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a disk does that forgets
