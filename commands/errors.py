"""Errors that are messages to the user, and the near names that they suggest."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
EXPERIMENTS = CONFIGS / "experiment"


class ConfigurationError(ValueError):
    """The configuration or the command line is wrong; the message names the key and the fix."""


class TemporaryError(Exception):
    """Another process or the network failed: the same command may succeed later.

    Args:
        message: What happened.
        status: Exit status; that of the process which failed first, if known.
    """

    def __init__(self, message: str, status: int = 75) -> None:  # EX_TEMPFAIL
        super().__init__(message)
        self.status = status


def print_error(message: object) -> None:
    """Print the message that ends a command, with keys as they may be typed."""
    said = f"error: {str(message).replace('.init_args.', '.')}"
    sys.stderr.write(f"{said}\n")
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # torchrun quotes it in its summary
        with contextlib.suppress(OSError):
            report = {"message": said, "timestamp": int(time.time())}
            Path(file).write_text(json.dumps(report), encoding="utf-8")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return the nearest choice as half a sentence, or an empty text."""
    choices = list(choices)
    near = [choice for choice in choices if choice.startswith(f"{word}_")]  # a short name
    near = near or difflib.get_close_matches(word, choices, n=1)
    if not near:  # a long dotted key may differ in its last part only
        tail = word.rpartition(".")[2]
        tails = {choice.rpartition(".")[2]: choice for choice in choices}
        near = [tails[t] for t in difflib.get_close_matches(tail, tails, n=1)]
        near = near or [choice for t, choice in tails.items() if t.startswith(f"{tail}_")]
    return f"; did you mean {near[0]!r}?" if near else ""
