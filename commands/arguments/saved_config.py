"""Saved configurations, which are read again as the same values."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace, set_dumper
from jsonargparse.typing import get_registered_type, register_type

from files.yaml_loader import strict_loader

PLAIN = (type(None), bool, int, float, str)

# Dictionaries of classes whose order has no meaning.
UNORDERED = ("", "init_args", "val", "test", "predict")

# The library writes these as text and reads them again by the type of the argument.
READ_AGAIN = (os.PathLike, timedelta, Enum)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Quote text that the parser would read as a number, such as 1e4."""


_Dumper.yaml_implicit_resolvers = {
    letter: [*yaml.SafeDumper.yaml_implicit_resolvers.get(letter, []), *resolvers]
    for letter, resolvers in strict_loader().yaml_implicit_resolvers.items()
}


def as_yaml(config: Any) -> str:
    """Return a plain configuration as YAML that the parser reads again as the same."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False)


set_dumper("yaml", as_yaml)


def _register(kind: type) -> None:
    # The library writes any value of an argument that may be a path or a list of them as the text
    # of a path: a list would not be read again as one.
    def as_text(value: Any) -> str:
        if not isinstance(value, kind | str):
            raise TypeError(f"{value!r} is no {kind.__name__}")
        return str(value)

    known: Any = get_registered_type(kind)
    register_type(kind, as_text, known.deserializer, type_check=known.type_check)


for _kind in (os.PathLike, Path, timedelta):
    _register(_kind)


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of a nested configuration by their dotted keys.

    The key of a dictionary of classes, such as ``stages``, has a tuple of its names: their order.
    """
    found: dict[str, Any] = {}
    if isinstance(config, dict) and config:
        classes = all(isinstance(v, dict) and "class_path" in v for v in config.values())
        if classes and prefix.rpartition(".")[2] not in UNORDERED:
            found[prefix] = tuple(config)
        for key, value in config.items():
            found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
        return found
    for number, value in enumerate(config if isinstance(config, list) else ()):
        inner = flat(value, f"{prefix}.{number}").items()
        found |= {key: names for key, names in inner if isinstance(names, tuple)}
    return {prefix: config, **found}


def is_mere_default(value: Any, default: Any, hint: Any) -> bool:
    """Return whether a value is a default that cannot be read again from text.

    Such a value is not saved: the class has it by default.

    Args:
        value: The parsed value.
        default: The default of its argument.
        hint: The type of its argument. Without one, text stays text.
    """
    untyped = "Any" in str(hint) or "Untyped" in str(hint)
    same = value is default or (isinstance(value, list | dict) and _equal(value, default))
    return same and not (_is_plain(value) if untyped else _has_text(value))


def _equal(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # comparisons of some classes raise, such as arrays
        return False


def _is_plain(value: Any) -> bool:
    if type(value) is list:
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, (*value.keys(), *value.values())))
    return type(value) in PLAIN or isinstance(value, Namespace)


def _has_text(value: Any) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_has_text, value))
    if isinstance(value, Namespace):  # a class with its arguments
        return True
    if isinstance(value, Mapping):
        return all(map(_has_text, (*value.keys(), *value.values())))
    if type(value) in PLAIN:
        return True
    if isinstance(value, READ_AGAIN):
        return not isinstance(value, str)  # an enum of text: its argument is text, too
    return _has_path(value)


def _has_path(value: Any) -> bool:
    # Functions and classes have an import path.
    try:
        return (
            reduce(getattr, value.__qualname__.split("."), sys.modules[value.__module__]) is value
        )
    except (AttributeError, KeyError):
        return False
