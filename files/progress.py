"""How progress is shown: a bar in a terminal, occasional lines of the log elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import Any

log = logging.getLogger(__name__)
LINE = "{desc}: {unit} {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left{postfix}"
REFRESH = 0.5  # seconds; reading the values for the bar waits for the device


class _LogLines:
    """A stream for tqdm that logs each drawing of the bar as a line."""

    def write(self, text: str) -> None:
        if line := text.strip():
            log.info("%s", line)

    def flush(self) -> None:
        pass


def bar_options(every_n_seconds: float = 10.0) -> dict[str, Any]:
    """Return the arguments with which tqdm shows a bar, or logs lines if there is no terminal.

    Args:
        every_n_seconds: Time between two lines of the log.
    """
    if sys.stderr.isatty():
        return {"mininterval": REFRESH, "dynamic_ncols": True}
    return {
        "mininterval": every_n_seconds,
        "miniters": 1,
        # Not 0, or tqdm draws before the pace is known; so small that no time changes by it, or a
        # bar that ends before its first line would have no last one.
        "delay": 1e-9,
        "bar_format": LINE,
        "file": _LogLines(),
        "position": 0,  # or tqdm moves a cursor that a file does not have
        "leave": True,
    }
