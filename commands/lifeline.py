"""Processes watch each other: where one is gone, the others stop with a word, and soon.

Each process writes a number into the store that all share, again and again, and looks at those of
the others, in threads beside the training. Where a number stands still for too long, or the store
does not answer, the training stands in a collective operation that will not end before the watchdog
of NCCL or gloo ends it, after ten or thirty minutes and with words that name nobody. So the process
ends itself, and whoever started it can start it again.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from torch._C._distributed_c10d import Store

LOST = 75  # status of a process that lost another one: EX_TEMPFAIL, start it again
GRACE = 5.0  # seconds in which a process may still end by itself after another one failed
TOGETHER = 2.0  # seconds within which processes fail at the same thing
FOLDER = "lastwords"


class Lifeline:
    """Tell the other processes that this one lives, and notice when one of them does not.

    Args:
        store: A connection to the store that all share, for nothing else.
        rank: Number of this process.
        hosts: Names of all processes' machines, by rank.
        folder: The run's directory, for the last words; None where nothing is left behind.
        heartbeat: Seconds between two signs of life.
        limit: Seconds without a sign after which a process counts as lost.
        state: Gives (step, number of a received signal or 0) of this process.
        end: Ends this process; replaced in tests.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        hosts: list[str],
        folder: Path | None,
        heartbeat: float,
        limit: float,
        state: Callable[[], tuple[int, int]],
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self.store, self.rank, self.hosts, self.folder = store, rank, hosts, folder
        self.heartbeat, self.limit = heartbeat, limit
        self.state, self.end = state, end
        self.signal = 0  # that another process received
        now = time.monotonic()
        self._beats = 0
        self._last: dict[int, dict[str, Any]] = {r: {} for r in range(len(hosts)) if r != rank}
        self._seen = dict.fromkeys(self._last, now)
        self._answered = self._connected = now
        self._failed: dict[int, float] = {}  # when we heard of it
        self._connection = 0
        self._over = threading.Event()
        self._lock = threading.Lock()

    # ------------------------------------------------------------------------------------- the ends

    def start(self) -> None:
        """Give the first sign; all processes call this together, right after they met."""
        # Not the store's time-outs, with pages of C++ frames, but the watch ends this process.
        self.store.set_timeout(timedelta(hours=1))
        self._tell(self.store, "here")
        self._connect()
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def leave(self, why: str = "done", status: int = 0) -> None:
        """Take leave: nobody needs this process any more.

        Args:
            why: ``done``, or what went wrong: then the others stop, too.
            status: The status that this process ends with, and then the others.
        """
        if self._over.is_set():
            return
        self._over.set()
        thread = threading.Thread(target=self._last_sign, args=(why, status), daemon=True)
        thread.start()
        thread.join(GRACE)  # a store that is gone must not keep us

    def _last_sign(self, why: str, status: int) -> None:
        try:
            store = self.store.clone()
            self._tell(store, why, status)
            if self.rank == 0:  # the store may end with this process
                deadline = time.monotonic() + (GRACE if why == "done" else TOGETHER)
                while time.monotonic() < deadline and not self._all_left(store):
                    time.sleep(0.05)
        except RuntimeError:  # nobody is there to hear it
            return

    def first_says(self, why: str) -> bool:
        """Whether the first process ends for the same reason, soon, and says so itself."""
        deadline = time.monotonic() + TOGETHER
        try:
            store = self.store.clone()
            while time.monotonic() < deadline:
                if json.loads(store.get(_key(0)))["word"] == why:
                    return True
                time.sleep(0.05)
        except RuntimeError:  # it is gone
            pass
        return False

    def _all_left(self, store: Store) -> bool:
        values = store.multi_get([_key(r) for r in self._last])
        return all(json.loads(v)["word"] != "here" for v in values)

    # -------------------------------------------------------------------------------------- talking

    def _connect(self) -> None:
        # A connection of its own each time: one that a broken link holds up is left to itself.
        self._connection += 1
        self._connected = time.monotonic()
        threading.Thread(target=self._talk, args=(self._connection,), daemon=True).start()

    def _talk(self, connection: int) -> None:
        try:
            store = self.store.clone()
            while connection == self._connection and not self._over.is_set():
                told = self.state()[1]
                self._tell(store, "here")
                self._hear(store.multi_get([_key(r) for r in self._last]))
                for _ in range(max(1, round(self.heartbeat / min(1.0, self.heartbeat)))):
                    if self._over.wait(min(1.0, self.heartbeat)) or self.state()[1] != told:
                        break  # a signal is told at once
        except RuntimeError:  # the watch opens another connection
            return

    def _tell(self, store: Store, word: str, status: int = 0) -> None:
        with self._lock:
            self._beats += 1
            step, number = self.state()
            sign = {"beat": self._beats, "step": step, "signal": number, "word": word}
            sign["status"] = status
        store.set(_key(self.rank), json.dumps(sign))

    def _hear(self, values: list[bytes]) -> None:
        now = time.monotonic()
        self._answered = now
        for rank, value in zip(self._last, values, strict=True):
            sign = json.loads(value)
            if sign != self._last[rank]:
                self._last[rank], self._seen[rank] = sign, now
            self.signal = self.signal or sign["signal"]
            if sign["word"] not in ("here", "done"):
                self._failed.setdefault(rank, now)

    # ------------------------------------------------------------------------------------- watching

    def _watch(self) -> None:
        tick = min(1.0, self.heartbeat / 2)
        before = time.monotonic()
        while not self._over.wait(tick):
            now = time.monotonic()
            if now - before > tick + self.limit / 2:
                # This process itself was stopped (a laptop's lid, a debugger): hear first.
                self._seen = dict.fromkeys(self._seen, now)
                self._answered = now
            before = now
            found = self._judge(now)
            if found is not None:
                self._end(*found)
                return
            if now - max(self._answered, self._connected) > 2 * self.heartbeat:
                self._connect()

    def explain(self) -> tuple[str, int] | None:
        """Who is the reason for a connection that broke, once that can be told.

        Returns:
            What to say, and the status to end with; None where all others seem to be well.
        """
        # Three signs that did not come are enough where a connection broke, too. The last one that
        # did may have been seen a beat after it was given, and a busy machine is late itself.
        deadline = time.monotonic() + 6 * self.heartbeat
        while time.monotonic() < deadline:
            found = self._judge(time.monotonic(), 3 * self.heartbeat, grace=0.0)
            if found is not None:
                return found
            time.sleep(self.heartbeat / 10)
        return None

    def _judge(
        self, now: float, limit: float | None = None, grace: float | None = None
    ) -> tuple[str, int] | None:
        limit, grace = limit or self.limit, GRACE if grace is None else grace
        for rank, since in self._failed.items():
            if now - since > grace:
                last = self._last[rank]
                return f"{self._name(rank)} stopped ({last['word']})", last["status"]
        silent = now - self._answered
        if silent > limit:
            return (
                f"no answer from the place where all processes meet (on {self.hosts[0]}) for "
                f"{silent:.0f} s, so no sign of any other process"
            ), LOST
        lost = [
            rank
            for rank, seen in self._seen.items()
            if now - seen > limit and self._last[rank].get("word") != "done"
        ]
        if not lost:
            return None
        names = ", ".join(self._name(rank) for rank in lost[:8])
        more = f" and {len(lost) - 8} more" if len(lost) > 8 else ""
        oldest = now - min(self._seen[rank] for rank in lost)
        step = max(self._last[rank].get("step", 0) for rank in lost)
        return f"no sign of {names}{more} for {oldest:.0f} s, last at step {step}", LOST

    def _name(self, rank: int) -> str:
        return f"rank {rank} (on {self.hosts[rank]})"

    def _end(self, why: str, status: int) -> None:
        self._over.set()
        last_words(self.folder, self.rank, why)
        self.end(status)


def last_words(folder: Path | None, rank: int, why: str) -> None:
    """Say on stderr, and in ``<run>/lastwords/rank-N.txt``, why this process ends.

    Args:
        folder: The run's directory; None leaves the file out.
        rank: Number of this process.
        why: The reason.
    """
    line = f"rank {rank} on {socket.gethostname()}: {why}: stopping\n"
    os.write(2, line.encode("utf-8", "backslashreplace"))  # it may name any file
    if folder is None:
        return
    # The run's directory may be on the very node that is gone.
    thread = threading.Thread(target=_write_down, args=(folder, rank, line), daemon=True)
    thread.start()
    thread.join(GRACE)


def _write_down(folder: Path, rank: int, line: str) -> None:
    try:
        path = folder / FOLDER / f"rank-{rank}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {line}")
    except OSError as error:
        os.write(2, f"the last words could not be written down ({error})\n".encode())


def _key(rank: int) -> str:
    return f"alive/{rank}"
