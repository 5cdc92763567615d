"""Tell exceptions that are messages to the user from bugs, which need their traceback."""

from __future__ import annotations

import os
import re
import signal
import traceback

from commands.errors import ROOT, ConfigurationError, TemporaryError
from commands.signals import Stopped, is_interrupt

ROOMS = ("callbacks", "commands", "datamodules", "degradations", "files", "lightning_modules")
OURS = (*(f"{ROOT / room}{os.sep}" for room in ROOMS), str(ROOT / "enlarger.py"))
# What they raise on purpose is about the configuration, or names a worker that died.
_LIBRARY = re.compile(
    r".*[/\\](site|dist)-packages[/\\](jsonargparse|lightning|torch[/\\](optim|utils[/\\]data))[/\\]"
)
_PARSER = re.compile(r".*[/\\](site|dist)-packages[/\\]jsonargparse[/\\]")
_FRAME = re.compile(r'^\s*File "(.+)", line \d+, in .*\n\s*(.*)', re.MULTILINE)
_RAISE = re.compile(r"(.*[:;] *)?raise\b")
_WORKER = "Original Traceback (most recent call last):"


def sentence_of(error: BaseException) -> str | None:
    """Return the message for the user that replaces a traceback.

    A message is what our own code, the parser, Lightning, an optimiser or a DataLoader raised on
    purpose, and an error of the system that names a file. Anything else is a bug, or an error of a
    user's class.

    Args:
        error: The exception that ended the command, with its traceback.

    Returns:
        The message, or None for a bug.
    """
    error = _of_constructor(error)
    if isinstance(error, ConfigurationError | TemporaryError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return str(error)
    file, line = _place_of(error)
    speaks = file.startswith(OURS) or _LIBRARY.match(file)
    if not speaks or not _RAISE.match(line):
        return None
    return _without_traceback(str(error)).strip() or None


def status_of(error: BaseException) -> int:
    """Return the exit status of a command.

    2 after a message to the user, 75 if the same command may be tried again, 128 plus its number
    after a signal, 1 for a bug.

    Args:
        error: The exception that ended the command, with its traceback.
    """
    if isinstance(error, TemporaryError | Stopped):
        return error.status
    if is_interrupt(error):
        return 128 + signal.SIGINT
    return 1 if sentence_of(error) is None else 2


def _of_constructor(error: BaseException) -> BaseException:
    """Return the error of a constructor, which the parser wraps once for each type it tried."""
    cause: BaseException | None = error
    while cause is not None:
        if not _PARSER.match(_place_of(cause)[0]):
            return cause
        cause = cause.__cause__
    return error  # the parser's own


def _place_of(error: BaseException) -> tuple[str, str]:
    """Return the file and the line of code that raised an error, in a DataLoader's worker, too."""
    frames = _FRAME.findall("".join(traceback.format_exception(error)))
    return frames[-1] if frames else ("", "")


def _without_traceback(message: str) -> str:
    # A DataLoader's worker sends its traceback as text: frames, then "package.Type: message".
    _, is_of_worker, text = message.rpartition(_WORKER)
    if not is_of_worker:
        return message
    return re.split(r"^[\w.]+: ", text, maxsplit=1, flags=re.MULTILINE)[-1]
