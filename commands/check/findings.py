"""What ``check`` finds, as one list."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Finding(NamedTuple):
    """One thing that was looked at.

    level: ``ok``; ``look``: it works, but may not do what you want; ``broken``: it does not work.
    subject: What was looked at, such as the key of an argument.
    text: What was found.
    fix: A command or an address; empty if there is nothing to do.
    """

    level: str
    subject: str
    text: str
    fix: str = ""


def print_findings(findings: Iterable[Finding]) -> int:
    """Print each finding as it comes; lines are not broken, so that commands can be copied.

    Returns:
        How many are broken.
    """
    broken = 0
    for finding in findings:
        sys.stdout.write(f"{finding.level:<6}  {finding.subject}: {finding.text}\n")
        if finding.fix:
            sys.stdout.write(f"        {finding.fix}\n")
        sys.stdout.flush()
        broken += finding.level == "broken"
    return broken


def path_as_typed(path: str) -> str:
    """Return a path of the project as it is typed in the working directory.

    Args:
        path: Relative to the project.
    """
    return path if Path.cwd() == ROOT else shlex.quote(str(ROOT / path))


def command_as_typed(words: str) -> str:
    """Return a command of ``main.py`` that works from the working directory."""
    return f"python {path_as_typed('main.py')} {words}"
