"""The marker `runs`: which experiments a test says that it runs; and which were run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

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


def collected(session: pytest.Session, paths: Iterable[Path]) -> list[pytest.Item]:
    """All tests of files, slow ones, too, and also where the session runs others."""
    found: list[pytest.Item] = []
    nodes: list[pytest.Item | pytest.Collector] = [
        pytest.Module.from_parent(session, path=path) for path in paths
    ]
    while nodes:
        node = nodes.pop()
        if isinstance(node, pytest.Item):
            found.append(node)
        else:
            nodes += node.collect()
    return found
