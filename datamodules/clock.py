"""What a training batch costs before it is on the device: told by its worker, with the batch.

Workers run beside the step, so no clock of the training process sees what they do. Each one counts
its own seconds, some tenths of a microsecond a picture, and they travel in the batch as the
unreadable pictures do.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


class Seconds(NamedTuple):
    """What a worker took for one batch, on the clock; waiting for a disk counts.

    reading: Bytes from a disk or a server, and all else that a source does but decode.
    decoding: Bytes to pixels.
    cropping: Crop, flips, augmentation, and what makes a batch of samples.
    """

    reading: float = 0.0
    decoding: float = 0.0
    cropping: float = 0.0


class Listener(Protocol):
    """Who is told what happens to training batches; see ``SRDataModule.listener``."""

    def arrived(self, seconds: list[Seconds]) -> None:
        """A batch came out of the loader; a part for each worker that prepared some of it."""

    def degraded(self) -> None:
        """It is on the device and has its LR: that is queued, not done, on a GPU."""


class Stopwatch:
    """Decorator: seconds in some functions of this process; of calls within calls, the outermost.

    Not for functions that several threads call.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        # Where set, it is given each of these calls to make, as a function and its arguments.
        self.around: Callable[..., Any] | None = None
        self._within = False

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """The same function, timed."""

        @functools.wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            if self._within:
                return function(*args, **kwargs)
            self._within, begun = True, time.perf_counter()
            try:
                if self.around is not None:
                    return cast("T", self.around(function, *args, **kwargs))
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - begun
                self._within = False

        return timed


READING = Stopwatch()  # with what is decoded meanwhile
DECODING = Stopwatch()


class Preparation:
    """The clock of one batch, from when it is made to when it is read."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._read, self._decoded = READING.seconds, DECODING.seconds

    def seconds(self) -> Seconds:
        """So far."""
        whole = time.perf_counter() - self._begun
        given = READING.seconds - self._read
        decoding = DECODING.seconds - self._decoded
        return Seconds(max(given - decoding, 0.0), decoding, max(whole - given, 0.0))
