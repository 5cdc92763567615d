"""The standard output, which a command outlives: its reader may end first, as `| head` does.

Imports nothing but the standard library, for `doctor`.
"""

from __future__ import annotations

import os
import sys
from typing import Any


class Outlived:
    """A stream that may be lost: what is written to it from then on goes nowhere.

    Args:
        stream: The real one.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or leave it out."""
        try:
            return int(self._stream.write(text))
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Have written what was."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        # Its buffer would be written again by whoever comes next, at last by the interpreter.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())
        if not isinstance(error, BrokenPipeError):  # whose reader has seen enough
            sys.stderr.write(f"the output could not be written ({error}): it is left out\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlive_output() -> None:
    """Go on without the standard output where it is lost, instead of ending by an error."""
    if sys.stdout is not None and not isinstance(sys.stdout, Outlived):
        sys.stdout = Outlived(sys.stdout)
