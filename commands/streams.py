"""Standard output whose reader may end first, as `| head` does.

Imports only the standard library, for `doctor`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any


class BrokenPipeSafe:
    """A stream that discards its output after the reader has ended.

    Args:
        stream: The wrapped stream.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or discard the text."""
        with self._ignored():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all lines, or discard them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, or discard the buffer."""
        with self._ignored():
            self._stream.flush()

    @contextlib.contextmanager
    def _ignored(self) -> Iterator[None]:
        # Only a broken pipe: a full disk is an error.
        try:
            yield
        except BrokenPipeError:
            # The buffer would be written again later, at last by the interpreter.
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":  # while a copy is created
            raise AttributeError(name)
        return getattr(self._stream, name)


def ignore_broken_pipe() -> None:
    """Continue when the reader of the standard output ends, without an error."""
    if sys.stdout is not None and not isinstance(sys.stdout, BrokenPipeSafe):
        sys.stdout = BrokenPipeSafe(sys.stdout)
