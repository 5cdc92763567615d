"""The standard output, which a command outlives: its reader may end first, as `| head` does.

Imports nothing but the standard library, for `doctor`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any


class Outlived:
    """A stream whose reader may end: what is written to it from then on goes nowhere.

    Args:
        stream: The real one.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or leave it out."""
        with self._outlived():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all of them, or leave them out."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Have written what was."""
        with self._outlived():
            self._stream.flush()

    @contextlib.contextmanager
    def _outlived(self) -> Iterator[None]:
        # A disk that is full is another thing: what was asked for is not there.
        try:
            yield
        except BrokenPipeError:
            # Its buffer would be written again by whoever comes next, at last by the interpreter.
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._stream, name)


def outlive_output() -> None:
    """Go on without the reader of the standard output where it ends, not end by an error."""
    if sys.stdout is not None and not isinstance(sys.stdout, Outlived):
        sys.stdout = Outlived(sys.stdout)
