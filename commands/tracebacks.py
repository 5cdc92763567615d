"""Tell exceptions that are messages to the user from bugs, which need their traceback."""

from __future__ import annotations

import errno
import os
import re
import sysconfig
import traceback

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException

from commands.errors import ROOT, ConfigurationError, TemporaryError

ROOMS = ("callbacks", "commands", "datamodules", "degradations", "files", "lightning_modules")
OURS = (*(f"{ROOT / room}{os.sep}" for room in ROOMS), str(ROOT / "enlarger.py"))
FOREIGN = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<")
LIGHTNING = tuple(lightning.__path__)
FULL = (errno.ENOSPC, errno.EDQUOT)
Frames = list[traceback.FrameSummary]
# Beginnings of the messages in which the parser wraps an exception of a constructor.
WRAPPED = ("Does not validate against any of the Union subtypes", "Problem with given class_path")

# Errors of disks and paths, with their fixes.
DISK = {
    **dict.fromkeys(FULL, "free space there, or choose another place"),
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "choose a writable place, or change its permissions",
    ),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
        "a file exists in place of a folder, or a folder in place of a file: choose another place",
    ),
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ENOENT: "name one that exists",
}
_RAISE = re.compile(r"(.*[:;] *)?raise\b")
_COMMAND = r"commands[/\\](cli|lightning_internals|table)\.py$"
_FRAME = r'^  File "([^"]+)", line (\d+), in (.*)\n    (.*)'
_WORKER = "Original Traceback (most recent call last):"


def sentence_of(error: BaseException) -> str | None:
    """Return the message for the user that replaces a traceback.

    An exception that our own code raised on purpose is a message; so is that of a plug-in, with its
    place, and a setting that Lightning refuses. Anything else is a bug.

    Args:
        error: The exception that ended the command, with its traceback.

    Returns:
        The message, or None for a bug.
    """
    error = origin(error)
    message = str(error).strip()
    if isinstance(error, ConfigurationError | TemporaryError):
        return message
    # Of the host: Python's, NumPy's, which names the size, and torch's.
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate" in message:
        return (
            f"out of memory{f': {message}' if message else ''}; lower what it grows with, such as "
            "data.init_args.batch_size, crop_size, crops.per_image or workers"
        )
    if message.startswith(WRAPPED):
        return message
    frames = list(traceback.extract_tb(error.__traceback__))
    if _WORKER in message:
        frames, message = _in_worker(message)
    if isinstance(error, ValueError | TypeError | OSError | ImportError) and _on_purpose(frames):
        raised = frames[-1]
        if raised.filename.startswith(OURS):
            return message
        place = f"{raised.filename}:{raised.lineno}, in {raised.name}"
        return f"{message} ({type(error).__name__} of {place}; --debug shows the traceback)"
    if isinstance(error, OSError) and (sentence := _of_disk(error, frames)):
        return sentence
    if not _by_lightning(frames):
        return None
    if isinstance(error, ValueError | MisconfigurationException | ModuleNotFoundError):
        return message  # the last one of an optional package
    # torch also raises RuntimeError, and Python TypeError: only those raised on purpose count.
    if isinstance(error, RuntimeError | TypeError) and _RAISE.match(frames[-1].line or ""):
        return message
    return None


def status_of(error: BaseException) -> int:
    """Return the exit status of a command.

    2 after a message to the user, 75 if the same command may be tried again, 1 for a bug.

    Args:
        error: The exception that ended the command, with its traceback.
    """
    if isinstance(error, TemporaryError):
        return error.status
    return 1 if sentence_of(error) is None else 2


def origin(error: BaseException) -> BaseException:
    """Return an exception of a constructor, which the parser wraps once for each type it tried.

    The cause of a wrapper is the error of the first type, which may only say that a mapping is no
    list; then the wrapper's text has the error of the constructor.
    """
    while str(error).startswith(WRAPPED):
        if error.__cause__ is None or str(error.__cause__).startswith("Expected a <class"):
            break
        error = error.__cause__
    return error


def _of_disk(error: OSError, frames: Frames) -> str | None:
    # Errors of DataLoader workers arrive as text, without their number.
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None]
    ours = [frame.filename for frame in frames if not _is_foreign(frame.filename)]
    if error.errno in FULL and not names and ours:  # a full disk names no file
        return f"{error.strerror}, where {ours[-1]} writes; {DISK[error.errno]}"
    # A socket may be denied, too; an existing folder is a race between processes.
    race = error.errno == errno.EEXIST and all(map(os.path.isdir, names))
    if error.errno not in DISK or not names or race:
        return None
    return f"{' -> '.join(names)}: {error.strerror}; {DISK[error.errno]}"


def _on_purpose(frames: Frames) -> bool:
    if not frames or _is_foreign(frames[-1].filename):
        return False
    return _RAISE.match(frames[-1].line or "") is not None


def _by_lightning(frames: Frames) -> bool:
    # No frame of a model, data module or callback, which could have called Lightning.
    ours = [frame.filename for frame in frames if not _is_foreign(frame.filename)]
    return (
        bool(frames)
        and frames[-1].filename.startswith(LIGHTNING)
        and all(re.search(_COMMAND, file) for file in ours)
    )


def _in_worker(message: str) -> tuple[Frames, str]:
    # A DataLoader worker sends its traceback as text: frames, then "package.Type: message".
    text = message.rpartition("Traceback (most recent call last):\n")[2]
    frames = [
        traceback.FrameSummary(file, int(number), name, lookup_line=False, line=line)
        for file, number, name, line in re.findall(_FRAME, text, re.MULTILINE)
    ]
    final = re.search(r"^[\w.]+: ", text, re.MULTILINE)
    return frames, text[final.end() :].strip() if final else message


def _is_foreign(file: str) -> bool:
    return file.startswith(FOREIGN) or "site-packages" in file
