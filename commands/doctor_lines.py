"""What ``doctor`` says: one line a finding, and checks that cannot take each other down.

Nothing but the standard library is imported here, nor at the head of any other file of ``doctor``:
what is imported may be what is broken.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
OK, LOOK, BROKEN = "ok", "look", "broken"
INSTALL = (
    "pip install -c constraints.txt -e ."  # the mend of all that is not as pyproject.toml asks
)
LONGEST = 300  # characters of a foreign message


@dataclass(frozen=True)
class Options:
    """What the command line asked for.

    Args:
        shards: Patterns of tars to look at.
        checksums: Read every byte of weights and shards.
        runs: Folder of all runs.
        wait: Seconds to wait for the other machines.
        folder: For what checks write; it is removed when the command ends.
        debug: Show what libraries said, and whole tracebacks.
    """

    shards: Sequence[str] = ()
    checksums: bool = False
    runs: str = "runs"
    wait: float = 60.0
    folder: str = ""
    debug: bool = False


@dataclass(frozen=True)
class Line:
    """One finding.

    Args:
        verdict: ``ok``, ``look`` (it works, and may not do what you want) or ``broken``.
        name: What was looked at.
        text: What was found, and after a colon the mend.
    """

    verdict: str
    name: str
    text: str


Check = Callable[[Options], Iterable[Line]]


def ok(name: str, text: str) -> Line:
    """A line about what is well. Args as ``Line``."""
    return Line(OK, name, text)


def look(name: str, text: str) -> Line:
    """A line about what deserves a look. Args as ``Line``."""
    return Line(LOOK, name, text)


def broken(name: str, text: str) -> Line:
    """A line about what does not work. Args as ``Line``."""
    return Line(BROKEN, name, text)


def said(error: BaseException) -> str:
    """What an exception says, in one line."""
    text = " ".join(str(error).split()) or "without a word"
    return f"{type(error).__name__}: {text}"[:LONGEST]


def guarded(name: str, check: Check, options: Options) -> Iterator[Line]:
    """The lines of one check; what it raises is a line too.

    Args:
        name: Of the check, for that line.
        check: Gives its lines one after the other; those before an exception stand.
        options: Handed to the check.
    """
    try:
        yield from check(options)
    except (Exception, SystemExit) as error:
        if options.debug:
            traceback.print_exc()
        mend = f": {INSTALL}" if isinstance(error, ImportError) else ""
        yield broken(name, said(error) + mend)


# ------------------------------------------------------------------- between the two processes


def report(out: IO[str], checks: Mapping[str, Check], names: Iterable[str], opt: Options) -> None:
    """Run checks in this process, and write what they say for ``heard`` of another one.

    Args:
        out: Where to.
        checks: All checks of a part, by name.
        names: Those to run.
        opt: Handed to each.
    """
    for name in names:
        _write(out, {"begins": name})
        for line in guarded(name, checks[name], opt):
            _write(out, asdict(line))
        _write(out, {"ended": name})


def heard(text: str) -> tuple[list[Line], str | None, list[str]]:
    """The lines that a process wrote, the check that it died in, and those that it ended.

    Args:
        text: All that came.
    """
    lines: list[Line] = []
    within, ended = None, []
    for row in text.splitlines():
        try:
            said_there = json.loads(row)
        except ValueError:  # the process died in the middle of it
            continue
        if "begins" in said_there:
            within = str(said_there["begins"])
        elif "ended" in said_there:
            within = None
            ended.append(str(said_there["ended"]))
        else:
            lines.append(Line(**said_there))
    return lines, within, ended


def _write(out: IO[str], row: Mapping[str, str]) -> None:
    out.write(json.dumps(row) + "\n")
    out.flush()


def stderr_tail(text: str) -> str:
    """The last line that a process wrote before it died, as half a sentence, or nothing."""
    rows = [row.strip() for row in text.splitlines() if row.strip()]
    return f", after {rows[-1][:LONGEST]!r}" if rows else ""


def colored(verdict: str) -> str:
    """The verdict, in six columns, in colour where this is a terminal."""
    padded = f"{verdict:<6}"
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return padded
    number = {OK: 32, LOOK: 33, BROKEN: 31}[verdict]
    return f"\033[{number}m{padded}\033[0m"
