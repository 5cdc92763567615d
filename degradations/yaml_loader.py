"""The loader of configurations: the parser's, which refuses what cannot be meant."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml
from jsonargparse._loaders_dumpers import get_yaml_default_loader


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
