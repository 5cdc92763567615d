"""The YAML loader of the parser, made strict: it refuses duplicate keys, cycles and bombs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from files.paths import CONFIGURATIONS

DEEPEST = 100  # levels of lists and mappings
MOST_REPEATED = 100_000  # values that aliases (*) may add
NO_FILE = '"<unicode string>"'  # the name of any text in messages of PyYAML
NO_CONFIGURATION = "is not a configuration: a regular file whose name ends in .yaml, .yml or .json"

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def is_configuration(path: str) -> bool:
    """Return whether a value is the path of a regular file with a configuration's ending.

    Args:
        path: The value; a leading ``~`` is the home directory.
    """
    return path.lower().endswith(CONFIGURATIONS) and os.path.isfile(os.path.expanduser(path))


def plain_yaml(text: str) -> Any:
    """Read YAML as ``yaml.safe_load`` does, ten times as fast where PyYAML has libyaml."""
    return yaml.load(text, _SafeLoader)


class StrictLoader(_SafeLoader):
    """The loader of configurations: refuses repeated keys, and what would exhaust the memory.

    YAML forbids a repeated key, and PyYAML keeps the last one: a second ``data:`` would silently
    drop the first. As jsonargparse's loader, it reads 1e-4 as a number, and dates as text. As YAML
    1.2, it reads neither 012 as 10 nor 1:30 as 90.
    """

    def __init__(self, text: str) -> None:
        _check(text)
        super().__init__(text)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value; one that its tag does not fit, such as ``!!int x``, is refused."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):
            kind = node.tag.rpartition(":")[2]
            _refuse(f"{str(node.value)[:40]!r} cannot be read as {kind}", node)


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


@dataclass
class _Collection:
    """A list or mapping, as far as it has been read."""

    anchor: str | None = None
    is_mapping: bool = False
    parts: int = 0  # keys and values directly in it
    values: int = 0  # at all levels below it, those of aliases included
    lines: dict[str, int] = field(default_factory=dict)  # of its keys


def _check(text: str) -> None:
    # By events: PyYAML composes by recursion, which deep nesting ends without an exception. Before
    # `<<` is merged, whose keys may be overridden.
    stack = [_Collection()]
    sizes: dict[str | None, int] = {}  # of the anchors
    repeated = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            collection = stack.pop()
            sizes[collection.anchor] = collection.values + 1
            stack[-1].values += collection.values + 1
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        above = stack[-1]
        above.parts += 1
        if isinstance(event, yaml.CollectionStartEvent):
            if len(stack) > DEEPEST:
                _refuse(f"more than {DEEPEST} levels of lists and mappings", event)
            sizes.pop(event.anchor, None)
            stack.append(_Collection(event.anchor, isinstance(event, yaml.MappingStartEvent)))
        elif isinstance(event, yaml.AliasEvent):
            if any(event.anchor == collection.anchor for collection in stack):
                _refuse("this alias (*) is within its own anchor (&)", event)
            size = sizes.get(event.anchor, 0)
            above.values += size
            repeated += size
            if repeated > MOST_REPEATED:
                _refuse(f"aliases (*) that repeat more than {MOST_REPEATED:,} values", event)
        else:
            above.values += 1
            sizes[event.anchor] = 1
            if above.is_mapping and above.parts % 2:
                _refuse_repeated_key(above.lines, event)


def _refuse_repeated_key(lines: dict[str, int], key: Any) -> None:
    if key.value in lines:
        first = lines[key.value]
        _refuse(
            f"duplicate key {key.value!r}, first in line {first}; only one of them would be used",
            key,
        )
    lines[key.value] = key.start_mark.line + 1


def _refuse(problem: str, at: Any) -> NoReturn:
    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=at.start_mark)
