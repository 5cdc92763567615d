"""Parts of a job that many processes share: ``--part I/N``.

The work is cut into blocks. What a block holds depends on the job alone, so that parts may be made
in any order, and their number may change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from files.owned import write_whole
from files.paths import size_and_time


def parse_part(text: str) -> tuple[int, int]:
    """Parse a part such as ``3/7``.

    Raises:
        ArgumentTypeError: If ``text`` is none.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a part; expected I/N with I from 1 to N, such as 3/7"
        )
    return int(match[1]), int(match[2])


def parse_positive(text: str) -> int:
    """Parse a whole number above 0.

    Raises:
        ArgumentTypeError: If ``text`` is none.
    """
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def parse_natural(text: str) -> int:
    """Parse a whole number of at least 0.

    Raises:
        ArgumentTypeError: If ``text`` is none.
    """
    return 0 if text == "0" else parse_positive(text)


def blocks_of(part: int, parts: int, blocks: int) -> range:
    """Return the blocks of part 1, 2, ... of some."""
    return range(blocks * (part - 1) // parts, blocks * part // parts)


def digest_of(job: dict[str, Any]) -> str:
    """Return the hash of what the blocks depend on, 16 hexadecimal digits."""
    text = json.dumps(job, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def sized(path: str) -> str:
    """Return a path with its file's size, which tells most files that were replaced.

    The time of modification would, too, but the copies of a set do not share it.
    """
    found = size_and_time(path)
    return path if found is None else f"{path}\0{found[0]}"


def read_about(path: Path, fix: str) -> dict[str, Any]:
    """Return ``job`` and number of ``parts`` from a file; empty if it is missing.

    Args:
        path: The file.
        fix: Which option to change, for the message.

    Raises:
        ValueError: If the file is another program's.
    """
    try:
        content = json.loads(path.read_bytes())
        return {"job": dict(content["job"]), "parts": int(content["parts"])}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is another program's file: move it away, or give another {fix}"
        ) from error


def write_about(path: Path, job: dict[str, Any], parts: int) -> None:
    """Write what ``read_about`` returns.

    Args:
        path: The file.
        job: What the blocks depend on.
        parts: Number of parts.
    """
    write_whole(path, json.dumps({"job": job, "parts": parts}) + "\n")
