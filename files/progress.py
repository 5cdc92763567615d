"""How progress is shown: a bar in a terminal, occasional lines of the log elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import Any

log = logging.getLogger(__name__)
LINE = "{desc}: {unit} {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left{postfix}"
ENDLESS = "{desc}: {unit} {n_fmt}, {rate_fmt}{postfix}"
REFRESH = 0.5  # seconds; reading the values for the bar waits for the device


class _LogLines:
    """A stream for tqdm that makes a line of the log of each drawing of a bar."""

    def write(self, text: str) -> None:
        if line := text.strip():
            log.info("%s", line)

    def flush(self) -> None:
        pass


def bar_options(every_n_seconds: float = 10.0, endless: bool = False) -> dict[str, Any]:
    """Return the arguments of a tqdm.

    Args:
        every_n_seconds: Time between two lines without a terminal.
        endless: Whether the total is not known.
    """
    if sys.stderr.isatty():
        return {"mininterval": REFRESH, "dynamic_ncols": True}
    # At one place, or tqdm moves a cursor that a file has not.
    line = ENDLESS if endless else LINE
    lines = {"mininterval": every_n_seconds, "miniters": 1, "bar_format": line}
    return {**lines, "file": _LogLines(), "position": 0, "leave": True}
