"""Time that workers spend on a training batch, sent with the batch.

Workers run in parallel to the step, so the training process cannot time them. Each worker counts
its own seconds, which costs some tenths of a microsecond per image, and sends them in the batch.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from files.batch import Seconds

P = ParamSpec("P")
T = TypeVar("T")


class Stopwatch:
    """Decorator that sums the seconds in functions of this process; nested calls count once.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._within = False

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return the function, timed."""

        @functools.wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            if self._within:
                return function(*args, **kwargs)
            self._within = True
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - begun
                self._within = False

        return timed


READING = Stopwatch()  # includes decoding within it
DECODING = Stopwatch()


class Preparation:
    """The clock of one batch, started when it is created."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._read = READING.seconds
        self._decoded = DECODING.seconds

    def seconds(self) -> Seconds:
        """Return the seconds since the start."""
        total = time.perf_counter() - self._begun
        reading = READING.seconds - self._read  # and decoding
        decoding = DECODING.seconds - self._decoded
        return Seconds(
            reading=max(reading - decoding, 0.0),
            decoding=decoding,
            cropping=max(total - reading, 0.0),
        )
