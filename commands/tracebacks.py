"""Tell exceptions that are messages to the user from bugs, which need their traceback."""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback

from commands.errors import ROOT, ConfigurationError, TemporaryError, print_error
from commands.signals import Stopped, is_interrupt

ROOMS = ("callbacks", "commands", "datamodules", "degradations", "files", "lightning_modules")
OURS = (*(f"{ROOT / room}{os.sep}" for room in ROOMS), str(ROOT / "enlarger.py"))
# What they raise on purpose is about the configuration, or names a worker that died.
_LIBRARY = re.compile(
    r".*[/\\](site|dist)-packages[/\\]"
    r"(jsonargparse|lightning|torch[/\\](optim|nn[/\\]parallel|utils[/\\]data))[/\\]"
)
_PARSER = re.compile(r".*[/\\](site|dist)-packages[/\\]jsonargparse[/\\]")
_FRAME = re.compile(r'^\s*File "(.+)", line \d+, in .*\n\s*(.*)', re.MULTILINE)
_RAISE = re.compile(r"(.*[:;] *)?raise\b")
# What torch says of trained networks that a run's settings do not suit, and what to do.
_UNSUITED = {
    "Expected more than 1 value per channel when training": (
        "a batch norm needs two crops in each process: increase data.batch_size"
    ),
    "parameters that were not used in producing the loss": (
        "a step does not use all parameters that train: set trainer.strategy to "
        "ddp_find_unused_parameters_true"
    ),
    "got mixed torch.Tensor and DTensor": (
        "a parameter is read outside the forward of its network, where fsdp has sharded it: name "
        "the method that reads it in the network's attribute `called`, or set trainer.strategy to "
        "ddp"
    ),
}
_WORKER = "Original Traceback (most recent call last):"


def sentence_of(error: BaseException) -> str | None:
    """Return the message for the user that replaces a traceback.

    A message is what our own code, the parser, Lightning, an optimiser, DDP or a DataLoader raised
    on purpose, an error of the system that names a file, and one in ``_UNSUITED``. Anything else is
    a bug, or an error of a user's class.

    Args:
        error: The exception that ended the command, with its traceback.

    Returns:
        The message, or None for a bug.
    """
    error = cause_of_parser_error(error)
    if isinstance(error, ConfigurationError | TemporaryError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return str(error)
    for start, said in _UNSUITED.items():
        if start in str(error):
            return said
    file, line = _raising_line(error)
    speaks = file.startswith(OURS) or _LIBRARY.match(file)
    if not speaks or not _RAISE.match(line):
        return None
    return _without_traceback(str(error)).strip() or None


def print_reason(error: BaseException, debug: bool) -> bool:
    """Print the message of what ended a command, if it is one for the user.

    Args:
        error: The exception, with its traceback.
        debug: Whether tracebacks are wanted in place of messages.

    Returns:
        False for a bug, and for the SystemExit of ``--help``: nothing was printed.
    """
    if is_interrupt(error):
        sys.stderr.write("stopped by SIGINT\n")
        return True
    sentence = None if debug else sentence_of(error)
    if sentence is None or isinstance(error, SystemExit):
        return False
    print_error(sentence)
    return True


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


def cause_of_parser_error(error: BaseException) -> BaseException:
    """Return the error of a constructor, which the parser wraps once for each type it tried."""
    cause: BaseException | None = error
    while cause is not None:
        if not _PARSER.match(_raising_line(cause)[0]):
            return cause
        cause = cause.__cause__
    return error  # the parser's own


def _raising_line(error: BaseException) -> tuple[str, str]:
    """Return the file and the line of code that raised an error, in a DataLoader's worker, too."""
    frames = _FRAME.findall("".join(traceback.format_exception(error)))
    return frames[-1] if frames else ("", "")


def _without_traceback(message: str) -> str:
    """Return the message of an error; without the frames that a DataLoader worker puts before."""
    _, is_of_worker, text = message.rpartition(_WORKER)
    if not is_of_worker:
        return message
    return re.split(r"^[\w.]+: ", text, maxsplit=1, flags=re.MULTILINE)[-1]
