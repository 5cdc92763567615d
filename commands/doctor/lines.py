"""Lines of ``doctor``: one line a finding, and checks that cannot stop each other.

``doctor`` files import nothing but the standard library at module level, because a package they
would import may be what is broken.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OK, LOOK, BROKEN = "ok", "look", "broken"
INSTALL = "pip install -c constraints.txt -e ."  # fixes all that differs from pyproject.toml
LONGEST = 300  # characters of a library's message


@dataclass(frozen=True)
class Options:
    """Options of the command.

    Args:
        shards: Patterns of the tars to check.
        checksums: Read every byte of weights and shards.
        runs: Folder of all runs.
        debug: Print whole tracebacks.
    """

    shards: Sequence[str] = ()
    checksums: bool = False
    runs: str = "runs"
    debug: bool = False


@dataclass(frozen=True)
class Line:
    """One finding.

    Args:
        verdict: ``ok``, ``look`` (it works, but may not do what you want) or ``broken``.
        name: What was checked.
        text: What was found and, after a colon, the fix.
    """

    verdict: str
    name: str
    text: str


Check = Callable[[Options], Iterable[Line]]


def ok(name: str, text: str) -> Line:
    """Return a line about something that works. Args as ``Line``."""
    return Line(OK, name, text)


def look(name: str, text: str) -> Line:
    """Return a line about something that may need attention. Args as ``Line``."""
    return Line(LOOK, name, text)


def broken(name: str, text: str) -> Line:
    """Return a line about something that does not work. Args as ``Line``."""
    return Line(BROKEN, name, text)


def error_text(error: BaseException) -> str:
    """Return type and message of an exception in one line."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}"[:LONGEST]


def guarded(name: str, check: Check, options: Options) -> Iterator[Line]:
    """Yield the lines of one check, and any exception as a line.

    Args:
        name: Name of the check, for the line of an exception.
        check: Yields its lines; those before an exception are kept.
        options: Passed to the check.
    """
    try:
        yield from check(options)
    except (Exception, SystemExit) as error:
        if options.debug:
            traceback.print_exc()
        fix = f": {INSTALL}" if isinstance(error, ImportError) else ""
        yield broken(name, error_text(error) + fix)


def colored(verdict: str) -> str:
    """Return the verdict padded to six columns, in colour on a terminal."""
    padded = f"{verdict:<6}"
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return padded
    number = {OK: 32, LOOK: 33, BROKEN: 31}[verdict]
    return f"\033[{number}m{padded}\033[0m"
