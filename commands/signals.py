"""Signals: the first one sets a flag, which training checks between two steps.

| signal | from | status |
|---|---|---|
| SIGTERM | schedulers, torchrun, ``kill`` | 143 |
| SIGUSR1 | SLURM's warning before a job's time limit (``--signal=USR1@120``) | 138 |
| SIGINT | Ctrl-C; a second one stops at once | 130 |

Lightning's handlers communicate with the other processes from inside the handler and, with SLURM,
save in the middle of a step; they are not installed.

Python runs a handler when the main thread returns from the call that it is in. A collective
operation whose partner never arrives does not return, so a thread beside it reads signals as they
arrive, and asks the main thread for a sign of life once a second.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Trainer

from commands.lightning_internals import replace_signal_handlers

HANDLED = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)
)
REPEAT_SECONDS = 1.0  # a terminal's Ctrl-C may arrive twice, also through the launcher
PROBE = getattr(signal, "SIGURG", None)  # simulated to ask the main thread; no library uses it
LOOK_SECONDS = 1.0  # between two looks of the thread
# A call has this long to return after a signal: torchrun and SLURM kill after 30 seconds.
STUCK_SECONDS = 20.0
WARNING = getattr(signal, "SIGUSR1", None)  # there is time left


class Stopped(Exception):  # noqa: N818  (no error)
    """Raised after a signal, on all processes at the same step of training.

    Args:
        number: The signal.
        at: Position of the run, for the message.
        in_validation: Whether a validation was interrupted, which a continued run repeats first.
    """

    def __init__(self, number: int, at: str, in_validation: bool = False) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} {at}")
        self.number, self.status = number, 128 + number
        self.in_validation = in_validation


class Signals:
    """The flag, the handlers that set it while the trainer runs, and the thread beside it.

    Args:
        known: Returns the number of a signal that any process of the run has received, or 0.
        end: Ends this process, by the reason and the status, if the main thread cannot.
    """

    def __init__(self, known: Callable[[], int], end: Callable[[str, int], object]) -> None:
        self.received = 0  # the signal's number
        self.saves = True  # whether the command writes checkpoints
        self._known, self._end = known, end
        self._arrived = 0  # as `received`, but set without the main thread
        self._at = 0.0
        self._asked = 0  # times, since the main thread last answered
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def arrived(self) -> int:
        """Number of a signal, whether or not the main thread has noticed it; or 0."""
        return self.received or self._arrived

    def still(self) -> float:
        """Return the seconds since which the main thread has not returned from a call."""
        return self._asked * LOOK_SECONDS

    def attach(self, trainer: Trainer) -> None:
        """Install our handlers instead of Lightning's when the trainer runs.

        Args:
            trainer: The trainer, before it runs.
        """
        replace_signal_handlers(trainer, self.install, self.restore)

    def install(self) -> None:
        """Install the handlers; before that, a signal ends the process by default."""
        if self._thread is not None:
            return
        for number in HANDLED:
            self._before[number] = signal.signal(number, self._handle)
        if PROBE is not None:
            self._before[PROBE] = signal.signal(PROBE, self._answer)
        reader, self._writer = socket.socketpair()
        for end in (reader, self._writer):
            end.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._over.clear()
        self._thread = threading.Thread(target=self._look, args=(reader,), daemon=True)
        self._thread.start()

    def restore(self) -> None:
        """Restore the earlier handlers."""
        if self._thread is None:
            return
        self._over.set()
        self._thread.join()
        signal.set_wakeup_fd(-1)
        self._writer.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before, self._asked, self._thread = {}, 0, None

    def _look(self, reader: socket.socket) -> None:
        looks = 0  # since a signal
        while not self._over.wait(LOOK_SECONDS):
            with contextlib.suppress(BlockingIOError):
                arrived = [number for number in reader.recv(1024) if number in HANDLED]
                self._arrived = self._arrived or next(iter(arrived), 0)
            if PROBE is not None:
                self._asked += 1
                _thread.interrupt_main(PROBE)
            number = self._known()
            if not number or number == WARNING:
                continue
            looks += 1
            if min(self.still(), looks * LOOK_SECONDS) > STUCK_SECONDS:
                name = signal.Signals(number).name
                self._end(f"stopped by {name} in {place()}, which does not return", 128 + number)
                break
        reader.close()

    def _answer(self, number: int, frame: FrameType | None) -> None:
        self._asked = 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a DataLoader worker: its owner decides
            return
        now = time.monotonic()
        if number == signal.SIGINT and self.received == number and now - self._at > REPEAT_SECONDS:
            raise KeyboardInterrupt
        if not self.received:
            self._at = now
            self.received = number
            where = "between two steps, with a checkpoint" if self.saves else "as soon as it can"
            _say(f"{signal.Signals(number).name}: stopping {where}")


def place() -> str:
    """Return the function that the main thread is in, with its file and line."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    if frame is None:
        return "no function"
    code = frame.f_code
    return f"{code.co_name} ({Path(code.co_filename).name}:{frame.f_lineno})"


def _forget_parent() -> None:
    # A signal to a DataLoader worker would arrive here through the inherited socket.
    signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)


def _say(line: str) -> None:
    # A handler may interrupt a print, whose lock it must not wait for.
    os.write(2, f"{line}\n".encode())
