"""The YAML loader of the parser, made strict: it refuses duplicate keys and cycles."""

from __future__ import annotations

import os
import re
from typing import Any

import yaml

from files.paths import CONFIGURATIONS

NO_FILE = '"<unicode string>"'  # the name of any text in messages of PyYAML
NO_CONFIGURATION = "is not a configuration: a regular file whose name ends in .yaml, .yml or .json"


def is_configuration(path: str) -> bool:
    """Return whether a value is the path of a regular file with a configuration's ending.

    Args:
        path: The value; a leading ``~`` is the home directory.
    """
    return path.lower().endswith(CONFIGURATIONS) and os.path.isfile(os.path.expanduser(path))


def plain_yaml(text: str) -> Any:
    """Read YAML as ``yaml.safe_load`` does, ten times as fast where PyYAML has libyaml."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


class StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The loader of configurations: refuses repeated keys, and aliases that contain themselves.

    YAML forbids a repeated key, and PyYAML keeps the last one: a second ``data:`` would silently
    drop the first. As jsonargparse's loader, it reads 1e-4 as a number, and dates as text. As YAML
    1.2, it reads neither 012 as 10 nor 1:30 as 90.
    """

    def construct_document(self, node: yaml.Node) -> Any:
        """Construct a document after its check."""
        _check(node, set(), frozenset())  # before `<<` is merged, whose keys may be overridden
        return super().construct_document(node)


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers
            if tag not in (_INT, _FLOAT, "tag:yaml.org,2002:timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}  # fmt: skip
StrictLoader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"""^(?:
        [-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
        |\.[0-9_]+(?:[eE][-+][0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)
StrictLoader.add_implicit_resolver(
    _INT,
    re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)


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
