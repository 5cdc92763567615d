"""How files with fixed names of this program begin; one that begins otherwise is a user's."""

from __future__ import annotations

import re

LENGTH = 2048  # bytes that are compared
_MARKS = {
    r"predictions\.jsonl": rb'\{"key": "',
    r"results\.json": rb'\{\s*"results": \[',
    r"images\.json": rb'\{"images": \[\n(\{"dataset"|\n)',
    r"results\.csv": rb"dataset,scale,checkpoint",
    r"weights\.json": rb'\{\s*"file": ',
    r"best\.json": rb'\{\s*"monitor": ',
    r"encode\.json": rb'\{\s*("version": \d+,\s*)?"source": ',
}
MARKS = [(re.compile(name), re.compile(begin, re.DOTALL)) for name, begin in _MARKS.items()]
SHEET = re.compile(rb"\x89PNG.*tEXtSoftware\0Enlarger preview", re.DOTALL)  # of `preview`, too


def mark_of(name: str) -> re.Pattern[bytes] | None:
    """Return the pattern of the first bytes of our files of this name; None for other names."""
    for pattern, mark in MARKS:
        if pattern.fullmatch(name):
            return mark
    return None
