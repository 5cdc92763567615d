"""Configurations as they are saved: what is written is read again as the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import Enum
from functools import reduce
from typing import Any

import yaml
from jsonargparse import Namespace, _typehints, set_dumper
from jsonargparse.typing import get_registered_type

from files.yaml_loader import strict_loader

PLAIN = (type(None), bool, int, float, str)
# The library writes these as text and reads them again by the type of the argument.
READ_AGAIN = (os.PathLike, timedelta, Enum)
PLACEHOLDER = "Unable to serialize instance "  # in files of 0.1.0


class _Dumper(yaml.SafeDumper):
    """Puts text in quotation marks if the parser would read a number: it takes 1e4 for one."""


_Dumper.yaml_implicit_resolvers = {
    letter: [*yaml.SafeDumper.yaml_implicit_resolvers.get(letter, []), *resolvers]
    for letter, resolvers in strict_loader().yaml_implicit_resolvers.items()
}


def as_yaml(config: Any) -> str:
    """Return a plain configuration as text that the parser reads again as the same."""
    text: str = yaml.dump(config, Dumper=_Dumper, sort_keys=False)
    return text


set_dumper("yaml", as_yaml)


def _write_containers_by_their_parts() -> None:
    # Where an argument may be a path or a list, a time or a dictionary, the library would write the
    # list as if it were a path: as one text, which is not read again as a list.
    whole = _typehints.adapt_typehints

    def adapt_typehints(val: Any, typehint: Any, *args: Any, **kwargs: Any) -> Any:
        container = isinstance(val, list | dict | tuple | set)
        if container and kwargs.get("serialize") and get_registered_type(typehint):
            raise TypeError(f"{val!r} is no {typehint}")
        return whole(val, typehint, *args, **kwargs)  # type: ignore[no-untyped-call]

    _typehints.adapt_typehints = adapt_typehints


_write_containers_by_their_parts()


def is_mere_default(value: Any, default: Any, hint: Any) -> bool:
    """Return whether a value is a default that would not be read again from text.

    Such a value is left out of a saved configuration: the class will have it again.

    Args:
        value: The value, as it was parsed.
        default: The default of its argument.
        hint: The type of its argument. Without one, text stays text.
    """
    untyped = "Any" in str(hint) or "Untyped" in str(hint)
    same = value is default or (isinstance(value, list | dict) and _equal(value, default))
    return same and not (_is_plain(value) if untyped else _has_text(value))


def _equal(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # whatever the classes of its values raise, such as arrays
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
        return not isinstance(value, str)  # an enum that is text: its argument is, too
    return _has_path(value)


def _has_path(value: Any) -> bool:
    # Of functions and classes, the place from which they are imported.
    try:
        return (
            reduce(getattr, value.__qualname__.split("."), sys.modules[value.__module__]) is value
        )
    except (AttributeError, KeyError):
        return False


def without_placeholders(content: Any) -> Any:
    """Return a configuration without the values that 0.1.0 could not write."""
    if isinstance(content, dict):
        pairs = ((key, without_placeholders(value)) for key, value in content.items())
        return {key: value for key, value in pairs if not _is_placeholder(value)}
    return (
        [without_placeholders(value) for value in content] if isinstance(content, list) else content
    )


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(PLACEHOLDER)


def differences(one: Any, other: Any, key: str = "") -> Iterator[str]:
    """Yield in what two parsed configurations differ, a text each, by their keys.

    Args:
        one: The first.
        other: The second.
        key: Where both stand.
    """
    if isinstance(one, Namespace | dict) and isinstance(other, Namespace | dict):
        first, second = (vars(v) if isinstance(v, Namespace) else v for v in (one, other))
        for name in {**first, **second}:
            below = f"{key}.{name}" if key else str(name)
            yield from differences(first.get(name), second.get(name), below)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{key}[{number}]")
    elif not _same(one, other):
        yield f"{key}: {one!r} is read as {other!r}"


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and repr(one) == repr(other))
