"""Parsed files of the project, for tests that look through its code."""

from __future__ import annotations

import ast
import functools
from pathlib import Path


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file; many tests of one process look through the same files."""
    return ast.parse(path.read_text(encoding="utf-8"))
