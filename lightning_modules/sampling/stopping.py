"""Stopping within an image: between two tiles, or before the next call of a network."""

from __future__ import annotations

import signal
from collections.abc import Callable

import torch


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


_leave: Callable[[], None] | None = None


def listen(leave: Callable[[], None] | None) -> None:
    """Set what ``stop_here`` calls.

    Args:
        leave: Raises ``Stopped`` after a signal; None to ignore signals again.
    """
    global _leave
    _leave = leave


def stop_here() -> None:
    """Leave the image at hand if a signal has arrived.

    Raises:
        Stopped: If so.
    """
    # Compiled code would be compiled again when the signal arrives.
    if not torch.compiler.is_compiling() and _leave is not None:
        _leave()
