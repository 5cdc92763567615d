"""How files with fixed names of this program begin; one that begins otherwise is a user's."""

from __future__ import annotations

import re
from pathlib import Path

LENGTH = 2048  # bytes that are compared
_PAGE = rb"<!DOCTYPE html>.*default-src &#39;none&#39;; img-src .*; script-src &#39;sha256-"
_MARKS = {
    r"(predict|report)\.html": _PAGE,
    r"predictions\.jsonl": rb'\{"key": "',
    r"scalars\.jsonl": rb'\{"(begin|step)": ',
    r"results\.json": rb'\{\s*"results": \[',
    r"images\.json": rb'\{"images": \[\n(\{"dataset"|\n)|\{\s*"command": ',
    r"results\.csv": rb"dataset,scale,checkpoint",
    r"best\.json": rb'\{\s*"monitor": ',
    r"encode\.json": rb'\{\s*("version": \d+,\s*)?"source": ',
    r".+\.report\.json": rb'\{\s*"job": ',
}
MARKS = [(re.compile(name), re.compile(mark, re.DOTALL)) for name, mark in _MARKS.items()]
PAGE = re.compile(_PAGE, re.DOTALL)  # of `report`, whose name a user chooses
SHEET = re.compile(rb"\x89PNG.*tEXtSoftware\0Enlarger preview", re.DOTALL)  # of `preview`, too


def mark_of(path: Path, mark: re.Pattern[bytes] | None = None) -> re.Pattern[bytes] | None:
    """Return how a file begins that is ours; None if its name is not a fixed one. Args as below."""
    return mark or next((mark for name, mark in MARKS if name.fullmatch(path.name)), None)


def is_foreign(path: Path, mark: re.Pattern[bytes] | None = None) -> bool:
    """Return whether a file has a name of this program, and a content of another one.

    An empty or missing file is not foreign.

    Args:
        path: The file.
        mark: How a file begins that is ours; by default as of its name.

    Raises:
        OSError: It cannot be read.
    """
    mark = mark_of(path, mark)
    if mark is None or not path.is_file():
        return False
    with path.open("rb") as file:
        begin = file.read(LENGTH)
    return begin != b"" and mark.match(begin) is None
