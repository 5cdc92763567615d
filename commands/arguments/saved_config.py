"""Saved configurations, which are read again as the same values."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_dumper, set_loader
from jsonargparse.typing import get_registered_type, register_type

PLAIN = (type(None), bool, int, float, str)

# Keys of the group `run` that earlier versions wrote into each config.yaml.
REMOVED_KEYS = ("lost_after_seconds", "preflight_minutes")
# Dictionaries of classes whose order has no meaning.
UNORDERED = ("", "init_args", "val", "test", "predict")


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Quotes text that the library reads as a number, and YAML 1.1 does not, such as 1e4."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9_.]+[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def as_yaml(config: Any) -> str:
    """Return a plain configuration as YAML that the parser reads again as the same."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


set_dumper("yaml", as_yaml)  # the library's own writes text such as 1e4 without quotes
_load = get_loader("yaml")


def _load_without_removed_keys(text: str) -> Any:
    """Load YAML as the library does, without ``REMOVED_KEYS``."""
    content = _load(text)
    if isinstance(content, dict) and isinstance(content.get("run"), dict):
        for key in REMOVED_KEYS:
            content["run"].pop(key, None)
    return content


set_loader("yaml", _load_without_removed_keys, (yaml.YAMLError, ValueError))


def _register_as_text(kind: type) -> None:
    """Write values of a type as text, and only values of that type.

    The library writes any value of an argument that may be a path or a list of them as the text of
    a path: a list would not be read again as one.
    """

    def as_text(value: Any) -> str:
        if not isinstance(value, kind | str):
            raise TypeError(f"{value!r} is no {kind.__name__}")
        return str(value)

    registered: Any = get_registered_type(kind)
    register_type(kind, as_text, registered.deserializer, type_check=registered.type_check)


for _kind in (os.PathLike, Path, timedelta):
    _register_as_text(_kind)


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of a nested configuration by their dotted keys.

    The key of a dictionary of classes, such as ``stages``, has a tuple of its names: their order.
    """
    values: dict[str, Any] = {}
    if isinstance(config, dict) and config:
        classes = all(isinstance(v, dict) and "class_path" in v for v in config.values())
        if classes and prefix.rpartition(".")[2] not in UNORDERED:
            values[prefix] = tuple(config)
        for key, value in config.items():
            values |= flat(value, f"{prefix}.{key}" if prefix else str(key))
        return values
    for number, value in enumerate(config if isinstance(config, list) else ()):
        inner = flat(value, f"{prefix}.{number}").items()
        values |= {key: names for key, names in inner if isinstance(names, tuple)}
    return {prefix: config, **values}


def without_unwritable_defaults(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Return a configuration without defaults that have no text form, such as a device.

    They are not saved: the class has them by default.

    Args:
        parser: The parser.
        config: Its configuration, which stays as it is.
    """
    unwritable = [key for key, value in config.items() if not _is_writable(value)]
    if not unwritable:
        return config
    defaults = parser.get_defaults()
    config = config.clone()
    for key in unwritable:
        value, default = config[key], defaults.get(key)
        # By their text, as arrays in a list have no comparison.
        is_same_list = isinstance(value, list | dict) and repr(value) == repr(default)
        if value is default or is_same_list:
            config.pop(key)
    return config


def _is_writable(value: Any) -> bool:
    """Return whether a value can be written as YAML and read again as the same."""
    if isinstance(value, list | tuple):
        return all(map(_is_writable, value))
    if isinstance(value, Mapping):
        return all(map(_is_writable, (*value.keys(), *value.values())))
    if type(value) in PLAIN or isinstance(value, Namespace):
        return True
    if not inspect.isroutine(value):
        return False
    module = sys.modules.get(str(value.__module__))
    return getattr(module, value.__name__, None) is value
