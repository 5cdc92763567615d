"""Signals: the first one sets a flag, which training checks between two steps.

| signal | from | status |
|---|---|---|
| SIGTERM | schedulers, torchrun, ``kill`` | 143 |
| SIGUSR1 | SLURM's warning before a job's time limit (``--signal=USR1@120``) | 138 |
| SIGINT | Ctrl-C; a second one, or one of a command that does not train, stops at once | 130 |

Lightning's handlers communicate with the other processes from inside the handler and, with SLURM,
save in the middle of a step; they are not installed.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Any

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


def is_interrupt(error: BaseException) -> bool:
    """Return whether Ctrl-C ended the command; Lightning turns it into SystemExit."""
    cause = error.__context__ if isinstance(error, SystemExit) else error
    return isinstance(cause, KeyboardInterrupt)


class Signals:
    """The flag, and the handlers that set it while the trainer runs.

    Args:
        command: Name of the command.
    """

    received_sigterm = False  # which Lightning asks: `Stops` decides when a run stops

    def __init__(self, command: str = "fit") -> None:
        self.command = command
        self.received = 0  # the signal's number
        self._handled = 0.0  # when the handler first ran, perhaps long after the signal came
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def register_signal_handlers(self) -> None:
        """Install the handlers; before that, a signal ends the process by default."""
        if not self._before:
            self._before = {number: signal.signal(number, self._handle) for number in HANDLED}

    def teardown(self) -> None:
        """Restore the earlier handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Set the flag; a Ctrl-C that nothing waits for, or a second one, stops at once."""
        if os.getpid() != self._owner:  # a DataLoader worker: its owner decides
            return
        clock = time.monotonic()
        is_second = self.received == number and self._handled < clock - REPEAT_SECONDS
        if number == signal.SIGINT and (is_second or self.command not in ("fit", "check")):
            raise KeyboardInterrupt
        if not self.received:
            self.received = number
            self._handled = clock
            fits = self.command == "fit"
            where = "between two steps, with a checkpoint" if fits else "as soon as it can"
            # A handler may interrupt a print, whose lock it must not wait for.
            os.write(2, f"{signal.Signals(number).name}: stopping {where}\n".encode())
