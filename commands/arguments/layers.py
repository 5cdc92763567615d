"""Layers of configuration: what a later file, or a typed value, replaces, changes and keeps.

One rule: a group (``trainer``) and a class (``model``, a source) keep the keys that a later layer
does not set. Everything else is replaced as a whole: a value, a list (``callbacks``), and a
dictionary of named classes (``val``, ``test``). The library would merge entries of lists and
dictionaries with the same position and class, and mix the arguments of two data sets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]

from files.paths import CONFIGURATIONS, read_text
from files.yaml_loader import NO_CONFIGURATION, is_configuration, strict_loader


class ConfigFile(ActionConfigFile):
    """``--config``: a file that is merged over the earlier layers."""

    def __call__(
        self, parser: Any, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Remove what the file replaces, then read it.

        Raises:
            TypeError: If it is no configuration.
        """
        if os.path.exists(str(values)) and not is_configuration(str(values)):
            raise TypeError(f"{values!r} {NO_CONFIGURATION}")
        if cfg.get(self.dest):  # the first file only overrides defaults
            content, folder = _content(str(values), Path())
            replaced(cfg, content, folder)
        super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]
        parser.check_groups(cfg)  # here: a key that is typed would replace what is no group


def replaced(earlier: Namespace, later: Any, folder: Path) -> None:
    """Remove what a later layer replaces as a whole.

    Args:
        earlier: The configuration so far; changed in place.
        later: The layer as read.
        folder: Folder of the layer's relative paths.
    """
    for name, value in later.items() if isinstance(later, Mapping) else ():
        before = earlier.get(name) if isinstance(name, str) else None
        if isinstance(before, dict | list):
            del earlier[name]
        elif isinstance(before, Namespace):
            named = isinstance(value, str) and value.endswith(CONFIGURATIONS)
            if named and "class_path" in before:
                del earlier[name]  # as on the command line
                continue
            content, place = _content(value, folder) if named else (value, folder)
            _into(before, content, place)


def _into(before: Namespace, value: Any, folder: Path) -> None:
    if "class_path" not in before:
        replaced(before, value, folder)
    elif isinstance(value, Mapping) and isinstance(before.get("init_args"), Namespace):
        arguments = value.get("init_args", {} if "class_path" in value else value)
        replaced(before.init_args, arguments, folder)


def _content(name: str, folder: Path) -> tuple[Any, Path]:
    """Read a file, or text; the parser reports errors in it."""
    path = folder / name
    try:
        text, place = (read_text(path), path.parent) if path.is_file() else (name, folder)
        return yaml.load(text, strict_loader()), place
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None, folder


def replace_typed(config: Namespace, option: str) -> None:
    """Remove a list or dictionary that a typed one replaces.

    Args:
        config: The configuration so far; changed in place.
        option: As typed, such as ``--data.init_args.val``.
    """
    key = option.removeprefix("--")
    holder, _, name = key.rpartition(".")
    inner = config.get(holder) if holder else config
    if isinstance(inner, Namespace) and "class_path" in inner and name not in inner:
        inner = inner.get("init_args")
    if isinstance(inner, Namespace) and isinstance(inner.get(name), dict | list):
        del inner[name]
