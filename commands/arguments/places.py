"""Where a key was written: the file among those of a command, and the line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from files.paths import CONFIGURATIONS, read_text
from files.yaml_loader import strict_loader


def place_of(key: str, typed: Sequence[str]) -> str:
    """Return ``FILE, line N: `` of a key, or an empty text if it was typed.

    Args:
        key: A full key.
        typed: The command line.
    """
    wanted, place = _bare(key.split(".")), ""
    for option, value in _options(typed):
        above = [] if option == "config" else _bare(option.split("."))
        if above == wanted:
            place = ""
        if value.endswith(CONFIGURATIONS) and Path(value).is_file():
            for path, file, line in _keys_of(Path(value), ()):
                if [*above, *_bare(path)] == wanted:
                    place = f"{file}, line {line}: "
    return place


def _options(typed: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word, following in pairwise([*typed, ""]):
        if word.startswith("--"):
            option, equals, value = word[2:].partition("=")
            yield option, value if equals else following


def _bare(parts: Iterable[str]) -> list[str]:
    return [part for part in parts if part != "init_args"]


def _keys_of(file: Path, above: tuple[Path, ...]) -> Iterator[tuple[tuple[str, ...], Path, int]]:
    # All keys of a file and of the files that it names, with their places.
    try:
        root = yaml.compose(read_text(file), Loader=strict_loader())
    except (OSError, ValueError, yaml.YAMLError):
        return
    nodes: list[tuple[tuple[str, ...], Any]] = [((), root)]
    seen = set[int]()  # an anchor may come again
    while nodes:
        path, node = nodes.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += [(path, item) for item in node.value]
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*path, *str(key.value).split("."))
                yield here, file, key.start_mark.line + 1
                nodes.append((here, value))
        elif isinstance(node, yaml.ScalarNode) and node.value.endswith(CONFIGURATIONS):
            inner = file.parent / node.value
            if inner.is_file() and inner not in above:
                for below, place, line in _keys_of(inner, (*above, file)):
                    yield (*path, *below), place, line
