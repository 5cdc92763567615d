"""The loader of configurations: the parser's, which refuses what cannot be meant."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import yaml
from jsonargparse._loaders_dumpers import get_yaml_default_loader
from jsonargparse._paths import PathError
from jsonargparse.typing import Path

from files.paths import CONFIGURATIONS

NO_CONFIGURATION = "is no configuration: the name of its file must end in .yaml, .yml or .json"


def is_configuration(path: str) -> bool:
    """Return whether a value names a file that is opened as configuration: a regular one, by name.

    Args:
        path: The value; a leading ``~`` is the home directory.
    """
    return path.lower().endswith(CONFIGURATIONS) and os.path.isfile(os.path.expanduser(path))


@cache
def open_configurations_alone() -> None:
    """From now on, the parser opens no other file as configuration.

    The library opens any existing file that a value names and takes its text for configuration,
    also an image: what is written in there would be instantiated.
    """
    whole = Path.__init__

    def __init__(self: Path, path: Any, mode: str = "fr", *args: Any, **kwargs: Any) -> None:  # noqa: N807
        # Types of paths are subclasses; other modes are not opened as configuration.
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
    """The class with which the parser reads YAML; from the first call on it refuses two things.

    Keys that stand twice, which YAML forbids and its library takes the last of: a second ``data:``
    further down would drop the first one, with all that is set in it. And what contains itself by
    an alias, which has no end.
    """
    loader: Any = get_yaml_default_loader()  # type: ignore[no-untyped-call]
    whole = loader.construct_document

    def construct_document(self: Any, node: yaml.Node) -> Any:
        # Before `<<` is filled in, which may be overridden.
        _check(node, set(), frozenset())
        return whole(self, node)

    loader.construct_document = construct_document
    return loader


def _check(node: yaml.Node, seen: set[int], around: frozenset[int]) -> None:
    if id(node) in around:
        raise yaml.constructor.ConstructorError(
            problem="what is named here by & contains itself by *", problem_mark=node.start_mark
        )
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))  # one that is named again by `*`
    around |= {id(node)}
    first: dict[str, yaml.Mark] = {}
    for item in node.value:
        key, value = item if isinstance(node, yaml.MappingNode) else (None, item)
        if isinstance(key, yaml.ScalarNode):
            if key.value in first:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} is there twice, in line "
                    f"{first[key.value].line + 1} already, and only one of them would count",
                    problem_mark=key.start_mark,
                )
            first[key.value] = key.start_mark
        _check(value, seen, around)
