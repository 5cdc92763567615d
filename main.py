"""The command line: ``python main.py COMMAND --config EXPERIMENT.yaml``; ``--help`` lists all."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def _set_paths() -> None:
    # Ours first, so that an installed package of the same name never wins. The working directory
    # is removed, which Python also adds for an empty part of PYTHONPATH: a user's classes are found
    # there without it.
    checkout, working = str(ROOT), _working_directory()
    removed = {checkout, ""}
    python_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if "" in python_path and working not in python_path:
        removed.add(working)
    sys.path[:] = [checkout] + [path for path in sys.path if path not in removed]
    from files.own_modules import OWN, start_safely

    OWN.folder = working
    if __name__ == "__main__":
        start_safely()


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        sys.stderr.write("error: the working directory was deleted: change to another one\n")
        raise SystemExit(2) from None


def _run_alone(words: Sequence[str]) -> int | None:
    """Run a command that needs no Lightning, or print help.

    Args:
        words: As typed after ``main.py``.

    Returns:
        The exit status; None, with nothing run, for the other commands.
    """
    from importlib import import_module

    from commands.arguments.help import print_help
    from commands.names import TOOLS

    try:
        if print_help(words):
            status = 0
        elif words == ["check"]:  # without a configuration
            status = import_module("commands.check.machine").main()
        elif words and words[0] in TOOLS:
            status = import_module(TOOLS[words[0]]).main(words[1:])
        else:
            return None
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_ended():  # the pipe is another one
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _reader_ended() -> bool:
    """Return whether the reader of our output has ended, as in ``main.py list methods | head``."""
    if sys.stdout is None:  # a service may have none
        return False
    events = select.poll()
    events.register(sys.stdout.fileno(), 0)  # 0: errors alone
    return bool(events.poll(0))


def _run_with_lightning(words: Sequence[str], debug: bool) -> None:
    """Run another command; its imports take seconds."""
    from commands.errors import ConfigurationError, did_you_mean
    from commands.names import ABOUT
    from commands.world import claimed

    command = words[0] if words else ""
    if command not in ABOUT:
        near = did_you_mean(command, ABOUT) or f"; the commands are {', '.join(ABOUT)}"
        raise ConfigurationError(f"unknown command {command!r}{near}")
    claimed()  # refuses variables of launchers that Lightning could not read when it is imported
    from commands.cli import run
    from commands.table import COMMANDS

    run(words, COMMANDS, debug)


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: Arguments as typed after ``main.py``; by default those of the process. ``--debug``
            shows the traceback of any error.

    Raises:
        SystemExit: With status 2 after a configuration error, which is printed as one sentence, 75
            if another process is lost or trains the same run, 128 plus the signal's number after a
            signal; with any status of a command without Lightning, such as ``pack``.
    """
    _set_paths()
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    typed = [word for word in words if word != "--debug"]
    try:
        status = _run_alone(typed)
        if status is None:
            _run_with_lightning(typed, debug)
            return
    except BaseException as error:
        from commands.tracebacks import cause_of_parser_error, print_reason, status_of

        if not print_reason(error, debug):
            cause = error if debug else cause_of_parser_error(error)
            raise cause from cause.__cause__
        status = status_of(error)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
