"""The YAML loader of the parser, made strict: it refuses duplicate keys and cycles."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import yaml
from jsonargparse._loaders_dumpers import get_yaml_default_loader
from jsonargparse._paths import PathError
from jsonargparse.typing import Path

from files.paths import CONFIGURATIONS

NO_CONFIGURATION = "is not a configuration: its name must end in .yaml, .yml or .json"


def is_configuration(path: str) -> bool:
    """Return whether a value is the path of a regular file with a configuration's ending.

    Args:
        path: The value; a leading ``~`` is the home directory.
    """
    return path.lower().endswith(CONFIGURATIONS) and os.path.isfile(os.path.expanduser(path))


@cache
def open_configurations_alone() -> None:
    """Let the parser open only files with the ending of a configuration, from now on.

    The library reads any existing file that a value names as configuration, also an image, and
    would instantiate classes named in it.
    """
    whole = Path.__init__

    def __init__(self: Path, path: Any, mode: str = "fr", *args: Any, **kwargs: Any) -> None:  # noqa: N807
        # Path types are subclasses; only readable files are opened as configuration.
        opened = type(self) is Path and isinstance(path, str | os.PathLike) and {*"fr"} <= {*mode}
        name = os.fspath(path) if opened and not isinstance(path, Path) else None
        whole(self, path, mode, *args, **kwargs)
        if name is not None and not name.lower().endswith(CONFIGURATIONS):
            raise PathError(f"{name!r} {NO_CONFIGURATION}")
        if name is not None and not self.is_fsspec and not os.path.isfile(self.absolute):  # a pipe
            raise PathError(f"{name!r} is not a regular file")

    Path.__init__ = __init__  # type: ignore[method-assign]


@cache
def strict_loader() -> Any:
    """Return the parser's YAML loader, which becomes strict with the first call.

    It refuses duplicate keys, which YAML forbids but its library accepts: a second ``data:`` would
    silently replace the first. It also refuses aliases to a parent, which never end.
    """
    loader: Any = get_yaml_default_loader()  # type: ignore[no-untyped-call]
    whole = loader.construct_document

    def construct_document(self: Any, node: yaml.Node) -> Any:
        # Before merging `<<`, whose keys may be overridden.
        _check(node, set(), frozenset())
        return whole(self, node)

    loader.construct_document = construct_document
    return loader


def _check(node: yaml.Node, seen: set[int], around: frozenset[int]) -> None:
    if id(node) in around:
        raise yaml.constructor.ConstructorError(
            problem="this anchor (&) contains itself by an alias (*)",
            problem_mark=node.start_mark,
        )
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))  # may come again by `*`
    around |= {id(node)}
    first: dict[str, yaml.Mark] = {}
    for item in node.value:
        key, value = item if isinstance(node, yaml.MappingNode) else (None, item)
        if isinstance(key, yaml.ScalarNode):
            if key.value in first:
                raise yaml.constructor.ConstructorError(
                    problem=f"duplicate key {key.value!r}, first in line "
                    f"{first[key.value].line + 1}; only one of them would be used",
                    problem_mark=key.start_mark,
                )
            first[key.value] = key.start_mark
        _check(value, seen, around)
