"""The marker `runs`: which experiments a test says that it runs; and which were run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

RAN: set[str] = set()  # files of commands that came to their end in this process


def note(words: Sequence[str]) -> None:
    """Keep which files a command had; for after it."""
    RAN.update(b for a, b in pairwise(words) if a == "--config")


def named(item: pytest.Item) -> set[str]:
    """The experiments in a test's markers, in which `{name}` is its parameter of that name."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    markers = item.iter_markers("runs")
    return {name.format(**parameters) for marker in markers for name in marker.args}


def not_run(item: pytest.Item) -> list[str]:
    """Those of them that no command had."""
    return sorted(n for n in named(item) if not any(p.endswith(f"/{n}.yaml") for p in RAN))
