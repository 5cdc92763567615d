"""Signals: the first one sets a flag, which training checks between two steps.

| signal | from | status |
|---|---|---|
| SIGTERM | schedulers, torchrun, ``kill`` | 143 |
| SIGUSR1 | SLURM's warning before a job's time limit (``--signal=USR1@120``) | 138 |
| SIGINT | Ctrl-C; a second one, or one of a command that does not train, stops at once | 130 |

Lightning's handlers communicate with the other processes from inside the handler and, with SLURM,
save in the middle of a step; they are not installed.

A process that waits, for another process, a disk or a server, may never come to the next step. If
no process of the run, nor a worker, has used a processor for seconds since the signal, a thread
ends it, without a checkpoint. The thread hears the signal itself, because no handler runs during a
call of C++.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Trainer

from commands.lightning_internals import replace_signal_handlers
from files.waits import WAITS

IDLE_SECONDS = 3.5  # without work after a signal, after which a process only waits
SAVE_SECONDS = 25.0  # the same while a checkpoint is written; torchrun kills after 30
POLL_SECONDS = 0.25
IDLE_SHARE = 0.02  # of a processor; a process that waits still sends heartbeats
HANDLED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
REPEAT_SECONDS = 1.0  # a terminal's Ctrl-C may arrive twice, also through the launcher


class Stopped(Exception):  # noqa: N818  (no error)
    """Raised after a signal, on all processes at the same step of training.

    Args:
        number: The signal.
        at: Position of the run, for the message.
    """

    def __init__(self, number: int, at: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} {at}")
        self.status = 128 + number


class Signals:
    """The flag, and the handlers that set it while the trainer runs.

    Args:
        end: Ends this process, which waits after a signal, by the signal's name and the status.
        others_idle: Returns whether all other processes of the run only wait, too.
    """

    received_sigterm = False  # which Lightning asks: `Stops` decides when a run stops

    def __init__(self, end: Callable[[str, int], Any], others_idle: Callable[[], bool]) -> None:
        self.end, self.others_idle = end, others_idle
        self.received = 0  # the signal's number
        self.idle = False  # whether this process has only waited since the signal
        self.command = "fit"
        self._handled = 0.0  # when the handler first ran for it, perhaps long after it came
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}
        self._reader, self._writer = socket.socketpair()

    def attach(self, trainer: Trainer) -> None:
        """Install our handlers instead of Lightning's when the trainer runs.

        Args:
            trainer: The trainer, before it runs.
        """
        replace_signal_handlers(trainer, self)

    def register_signal_handlers(self) -> None:
        """Install the handlers; before that, a signal ends the process by default."""
        if not self._before:
            self._before = {number: signal.signal(number, self._handle) for number in HANDLED}
            self._writer.setblocking(False)
            signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._watch, daemon=True).start()

    def teardown(self) -> None:
        """Restore the earlier handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(-1)
            self._wake(0)
        self._before = {}

    def pass_on(self, number: int) -> None:
        """Receive a signal that another process of the run has received.

        Args:
            number: The signal.
        """
        self._receive(number)
        self._wake(number)

    def _wake(self, number: int) -> None:
        with contextlib.suppress(BlockingIOError):  # full of signals after the first one
            self._writer.send(bytes([number]))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a DataLoader worker: its owner decides
            return
        clock = time.monotonic()
        is_second = self.received == number and 0 < self._handled < clock - REPEAT_SECONDS
        self._handled = self._handled or clock
        if number == signal.SIGINT and (is_second or self.command not in ("fit", "check")):
            raise KeyboardInterrupt
        self._receive(number)

    def _receive(self, number: int) -> None:
        if not self.received:
            self.received = number
            fits = self.command == "fit"
            where = "between two steps, with a checkpoint" if fits else "as soon as it can"
            # A handler may interrupt a print, whose lock it must not wait for.
            os.write(2, f"{signal.Signals(number).name}: stopping {where}\n".encode())

    def _watch(self) -> None:
        """Wait for a signal, and end this process if nothing in the run works after it."""
        number = 0
        while number not in HANDLED:
            number = self._reader.recv(1)[0]
            if number == 0:  # by `teardown`
                return
        self._receive(number)
        since, used = time.monotonic(), _work()
        while self._before:
            time.sleep(POLL_SECONDS)
            clock, using = time.monotonic(), _work()
            # A worker that has ended took its seconds along.
            if using < used or using - used > IDLE_SHARE * max(clock - since, IDLE_SECONDS):
                since, used = clock, using
            self.idle = clock - since > (SAVE_SECONDS if WAITS.saving else IDLE_SECONDS)
            if self.idle and self.others_idle():
                self.end(signal.Signals(number).name, 128 + number)
                return


def _work() -> float:
    """Return the processor seconds of this process and its workers."""
    seconds = time.process_time()
    for worker in multiprocessing.active_children():
        with contextlib.suppress(OSError):  # it has ended, or this is not Linux
            fields = Path(f"/proc/{worker.pid}/stat").read_text(encoding="utf-8")
            user, system = fields.rpartition(")")[2].split()[11:13]
            seconds += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return seconds


def _hear_nothing() -> None:
    signal.set_wakeup_fd(-1)  # which a forked child shares


os.register_at_fork(after_in_child=_hear_nothing)
