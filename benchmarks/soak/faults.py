"""Faults of a run of `benchmarks.soak`, and how the same command goes on after each."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.soak.run import WORKERS, Run, damage
from files.owned import remove_file
from tests.datamodules.server import Server

DISK = 256  # MB of the disk that becomes full
HOURS = 36.0  # by which the clock jumps at most, in either direction
KINDS = {
    "kill": "SIGKILL of the process",
    "worker": "SIGKILL of a worker",
    "terminate": "SIGTERM to the process",
    "damage": "damaged shard in the cache",
    "disk": "full disk of the run",
    "disk_kill": "full disk of the run, then SIGKILL",
    "clock": "jump of the clock and of all files' times",
    "stall": "server of the shards stalls",
    "freeze": "worker stands still",
    "slow": "slow disk",
}
ENDS = {
    "kill": -signal.SIGKILL,
    "worker": 1,
    "terminate": 128 + signal.SIGTERM,
    "disk_kill": -signal.SIGKILL,
}
MISSED = r"step-\d+\.ckpt could not be written"


class Fault(NamedTuple):
    """One fault, as it was planned: its kind, and the batch after which it comes."""

    kind: str
    place: int


def plan(kinds: Iterable[str], steps: int, apart: float, seed: int) -> list[Fault]:
    """Faults at random batches; each kind comes once before any comes again.

    Args:
        kinds: Some of `KINDS`.
        steps: Of the training.
        apart: Batches from one fault to the next, on average.
        seed: Of the choice.
    """
    chance, known = random.Random(seed), list(kinds)
    faults: list[Fault] = []
    place = chance.uniform(0.2, 1.0) * apart
    while place < steps - apart / 4:
        if len(faults) % len(known) == 0:
            chance.shuffle(known)
        faults.append(Fault(known[len(faults) % len(known)], max(1, int(place))))
        place += chance.uniform(0.5, 1.5) * apart
    return faults


class Faults:
    """Does faults to a run, and types its command again wherever it has ended.

    Args:
        run: The run; it has been started.
        server: Serves its shards.
        steps: Of the training.
        seed: Of everything that is left to chance.
        seconds: Longest stall of the server; a disk is full for up to three times as long.
    """

    def __init__(
        self, run: Run, server: Server, steps: int, seed: int, seconds: float = 20.0
    ) -> None:
        self.run, self.server, self.steps, self.seconds = run, server, steps, seconds
        self.chance = random.Random(seed)
        self.recorded: list[dict[str, Any]] = []
        self.say: Callable[[str], object] = lambda line: None
        self._began = time.monotonic()

    def happen(self, faults: list[Fault]) -> None:
        """One after the other, each when the run has come to its place.

        Raises:
            RuntimeError: The run does not go on after one.
        """
        for fault in faults:
            while not self.run.reaches(fault.place):
                if self.run.status() == 0:
                    return
                self._again("nothing", None)
            time.sleep(self.chance.uniform(0.0, 0.5))  # anywhere in a step, or in a checkpoint
            self._again(fault.kind, getattr(self, fault.kind))

    def finish(self) -> None:
        """Let the run come to its end."""
        while self.run.ended() != 0:
            self._again("nothing", None)

    def _again(self, kind: str, fault: Callable[[], dict[str, Any] | None] | None) -> None:
        """Do it, see what became of the run, and start it again if it has ended."""
        line: dict[str, Any] = {"kind": kind, "minute": self._minute(), "at batch": self.run.place}
        if fault is None and self.recorded and self.recorded[-1]["at batch"] >= line["at batch"]:
            raise RuntimeError(f"the run ends at the same batch again:\n{self.run.said()}")
        self.server.requests.clear()
        if fault is not None:
            with suppress(psutil.NoSuchProcess):  # the run has come to its end meanwhile
                line |= fault() or {}
        goes_on = fault is not None and kind not in ENDS and self.run.trains()
        status = line["status"] = None if goes_on else self.run.ended()
        # A run whose last checkpoint finds no room ends with an error, and that is right.
        last = kind == "disk" and status == 2 and self.run.place >= self.steps
        line["expected"] = (last or status in (0, ENDS.get(kind))) and kind != "nothing"
        if status not in (None, 0):
            reached, over = self.run.place, time.monotonic()
            self.run.start()
            if not self.run.trains() and self.run.status() != 0:
                raise RuntimeError(f"after {kind} the run does not go on:\n{self.run.said()}")
            _, now, own, *_ = self.run.board.read()
            line["batches lost"] = reached - (now - own)
            line["seconds until it trains"] = round(time.monotonic() - over, 1)
        self.recorded.append(line)
        self.say(", ".join(f"{name} {value}" for name, value in line.items()))

    def _minute(self) -> float:
        return round((time.monotonic() - self._began) / 60, 2)

    # ----------------------------------------------------------------------------------- the faults

    def kill(self) -> None:
        """The process ends at once."""
        self.run.workers()
        self.run.process.kill()

    def worker(self) -> None:
        """One of its workers ends at once."""
        self._worker().kill()

    def _worker(self) -> psutil.Process:
        # Those of training have done most; those of validation wait for the next one.
        workers = sorted(self.run.workers(), key=lambda worker: sum(worker.cpu_times()[:2]))
        return self.chance.choice(workers[-WORKERS:])

    def terminate(self) -> None:
        """A scheduler asks it to end."""
        self.run.process.terminate()

    def damage(self) -> None:
        """Bytes of a shard in the cache are flipped; wait until the run has got it again."""
        tars = sorted(self.run.cache.glob("*-shard-*.tar"))
        if not tars:
            raise RuntimeError("the cache holds no shard that could be damaged")
        tar = self.chance.choice(tars)
        whole = self.server.root / tar.name.partition("-")[2]
        damage(tar, self.chance, Path(f"{whole}.idx.json"))

        def mended() -> bool:
            try:
                return tar.read_bytes() == whole.read_bytes()
            except FileNotFoundError:
                return True  # there is no room for it at the moment

        self.run.wait(mended, f"{tar.name} to be fetched again")

    def disk(self) -> None:
        """No byte more fits onto the run's disk until a checkpoint was missed, and a while more."""
        with full(self.run.directory.parent) as fill:
            self._miss_a_checkpoint(fill)
            self._pass(self.chance.uniform(0.25, 1.0) * 3 * self.seconds, fill)

    def disk_kill(self) -> None:
        """No byte more fits, a checkpoint is missed, and the process is killed."""
        with full(self.run.directory.parent) as fill:
            self._miss_a_checkpoint(fill)
            self.kill()
            self.run.ended()

    def _miss_a_checkpoint(self, fill: Callable[[], None]) -> None:
        before = len(self.run.said(None))

        def missed() -> bool:
            fill()  # what was being written leaves its room again
            return re.search(MISSED, self.run.said(None)[before:]) is not None

        self.run.wait(missed, "a checkpoint that could not be written")

    def _pass(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        until = time.monotonic() + seconds

        def over() -> bool:
            meanwhile()
            return time.monotonic() > until

        self.run.wait(over, "some seconds to pass")

    def clock(self) -> None:
        """The clock jumps, forth or back, and all files of the cache and the run jump with it."""
        shift = self.chance.uniform(-HOURS, HOURS) * 3600
        self.run.board.write(0, shift)
        now = time.time() + shift
        for folder in (self.run.cache, self.run.directory):
            for path in folder.rglob("*"):
                try:
                    os.utime(path, (now, now))
                except FileNotFoundError:  # it was of the moment
                    continue

    def stall(self) -> dict[str, Any]:
        """No request for a shard is answered to its end, for some seconds."""
        self.server.always = "stall"
        self._pass(self.chance.uniform(0.25, 1.0) * self.seconds)
        self.server.always = None
        self.server.stalled.set()  # those that stall now end
        self.server.stalled.clear()
        return {"requests": sum(method == "GET" for method, *_ in self.server.requests)}

    def freeze(self) -> None:
        """A worker does nothing for some seconds, as one whose disk does not answer."""
        worker = self._worker()
        worker.suspend()
        self._pass(self.chance.uniform(0.1, 0.5) * self.seconds)
        worker.resume()

    def slow(self) -> None:
        """Reads of shards and flushes of files take up to half a second longer, for some seconds.

        Inside of the processes: a disk of its own could be made slow by the kernel's device mapper
        alone, which few machines have.
        """
        self.run.board.write(4, self.chance.uniform(0.02, 0.5))
        self._pass(self.chance.uniform(0.25, 1.0) * self.seconds)
        self.run.board.write(4, 0.0)


@contextmanager
def full(disk: Path) -> Iterator[Callable[[], None]]:
    """Fill a disk to its last byte.

    Yields:
        What fills it again.
    """
    ballast = disk / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:

            def fill() -> None:
                for size in (1 << 20, 1 << 12, 1):
                    with suppress(OSError):
                        while True:
                            file.write(bytes(size))

            fill()
            yield fill
    finally:
        remove_file(ballast)


@contextmanager
def disk(place: Path) -> Iterator[bool]:
    """A small disk of its own, if one may be had here: that needs root.

    Yields:
        Whether it is there; else the folder is on the disk where it lies.
    """
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(place)]
    try:
        there = not subprocess.run(mount, capture_output=True, check=False).returncode
    except FileNotFoundError:
        there = False
    try:
        yield there
    finally:
        if there:
            subprocess.run(["umount", str(place)], check=True)
