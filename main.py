"""The command line: ``python main.py COMMAND --config EXPERIMENT.yaml``; ``--help`` lists all."""

from __future__ import annotations

import os
import select
import signal
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


def _check(words: Sequence[str]) -> None:
    # Before the import of Lightning, which reads the launchers' variables as numbers.
    from commands.errors import ConfigurationError, did_you_mean
    from commands.names import ABOUT
    from commands.world import claimed

    command = words[0] if words else ""
    if command not in ABOUT:
        near = did_you_mean(command, ABOUT) or f"; the commands are {', '.join(ABOUT)}"
        raise ConfigurationError(f"unknown command {command!r}{near}")
    claimed()


def _run_alone(words: Sequence[str]) -> int | None:
    # The status of a command without Lightning, or of --help; None for all others.
    from importlib import import_module

    from commands.arguments.help import answered
    from commands.errors import print_error
    from commands.names import TOOLS
    from commands.tracebacks import sentence_of, status_of

    typed = [word for word in words if word != "--debug"]
    try:
        if answered(typed):
            return 0
        if typed == ["check"]:  # without a configuration
            from commands.check.machine import main as tell_of_machine

            return tell_of_machine()
        if typed and typed[0] in TOOLS:
            status: int = import_module(TOOLS[typed[0]]).main(typed[1:])
            return status
        _check(typed)
    except BrokenPipeError:
        raise
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None or "--debug" in words:
            raise
        print_error(sentence)
        return status_of(error)
    return None


def _reader_ended() -> bool:
    events = select.poll()
    events.register(sys.stdout.fileno(), 0)  # 0: errors alone
    return bool(events.poll(0))


def _stopped() -> int:
    sys.stderr.write("stopped by SIGINT\n")
    return 128 + signal.SIGINT


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: Arguments as typed after ``main.py``; by default those of the process.

    Raises:
        SystemExit: With the status of a command without Lightning, such as ``pack``; 2 after a
            configuration error, which is printed as one sentence; 130 after a Ctrl-C in such a
            command, or during the imports, which take seconds.
    """
    _set_paths()
    words = list(sys.argv[1:] if args is None else args)
    try:
        status = _run_alone(words)
        if sys.stdout is not None:  # a service may have none
            sys.stdout.flush()
    except BrokenPipeError:  # of `main.py list methods | head`
        if not _reader_ended():  # but of another pipe
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except KeyboardInterrupt:
        status = _stopped()
    if status is not None:
        raise SystemExit(status)
    try:
        from commands.cli import run
        from commands.table import COMMANDS
    except KeyboardInterrupt:
        raise SystemExit(_stopped()) from None
    except Exception as error:
        error.add_note("`python main.py check` reports what is wrong with this installation.")
        raise
    run(words, COMMANDS)


if __name__ == "__main__":
    main()
