"""What a later file of a configuration replaces of the earlier ones.

One rule: a group (``trainer``) and a class (``model``, a source) keep the keys that a later layer
does not set. Everything else is replaced as a whole: a value, a list (``callbacks``), and a
dictionary of named classes (``val``, ``test``). The library would merge entries of lists and
dictionaries with the same position and class, and mix the arguments of two data sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from files.paths import CONFIGURATIONS, read_text
from files.yaml_loader import strict_loader


def replaced(earlier: Namespace, name: str) -> None:
    """Remove what a file replaces as a whole.

    Args:
        earlier: The configuration so far; changed in place.
        name: The file, or YAML.
    """
    _replaced(earlier, *_content(name, Path()))


def _replaced(earlier: Namespace, later: Any, folder: Path) -> None:
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
        _replaced(before, value, folder)
    elif isinstance(value, Mapping) and isinstance(before.get("init_args"), Namespace):
        arguments = value.get("init_args", {} if "class_path" in value else value)
        _replaced(before.init_args, arguments, folder)


def _content(name: str, folder: Path) -> tuple[Any, Path]:
    """Read a file, or text; the parser reports errors in it."""
    path = folder / name
    try:
        text, place = (read_text(path), path.parent) if path.is_file() else (name, folder)
        return yaml.load(text, strict_loader()), place
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None, folder
