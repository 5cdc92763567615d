"""Misspelt nested keys, and numbers that are none, answered before torch is imported.

Classes are read from the configurations, and their arguments from the sources. What they do not
tell is left to the parser, as are the keys of files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from commands.errors import ConfigurationError, no_argument
from commands.options import arguments
from files.paths import CONFIGURATIONS, read_text

Key = tuple[str, ...]  # the parts of a key without `init_args`
NUMBERS = ("int", "float", "int | None", "float | None")
_WORD = re.compile(r"(?!(?i:null|none|true|false|yes|no|on|off|inf|nan)$)[A-Za-z]+")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def refuse_nested_typos(args: Sequence[str]) -> None:
    """Raise for a misspelt key of a class that the configuration names, or a word for a number.

    Raise, too, for a list of texts that is typed twice: the second would replace the first.

    Args:
        args: Arguments as typed after ``main.py``.

    Raises:
        ConfigurationError: With the sentence that the parser's error would become.
    """
    classes: dict[Key, str] = {("data",): "datamodules.SRDataModule"}  # as of the parser
    lists: set[Key] = set()
    for number, word in enumerate(args):
        option, equals, value = word.partition("=")
        if not option.startswith("--"):
            continue
        value = value if equals else args[number + 1] if number + 1 < len(args) else ""
        key = () if option == "--config" else _parts(option[2:])
        _refuse(key, value, classes, args)
        _refuse_repeated(option, key, classes, lists)
        try:
            inline = yaml.compose(value, _LOADER) if value.startswith("{") else None
            _note(key, inline or yaml.ScalarNode("", value), Path(), classes)
        except (OSError, ValueError, RecursionError, yaml.YAMLError):  # the parser has a sentence
            return


def _parts(key: str) -> Key:
    return tuple(part for part in key.rstrip("+").split(".") if part != "init_args")


def _refuse(key: Key, value: str, classes: dict[Key, str], typed: Sequence[str]) -> None:
    full = ""
    for depth, name in enumerate(key):
        of = classes.get(key[:depth], "")
        types = arguments(of)
        full = f"{full}.init_args.{name}" if of else f"{full}.{name}".removeprefix(".")
        if types is None or name in ("class_path", "dict_kwargs", "help"):
            continue
        if name not in types:
            raise ConfigurationError(no_argument(full, of, name, [*types], typed))
        if depth == len(key) - 1 and types[name] in NUMBERS and _WORD.fullmatch(value):
            raise ConfigurationError(
                f"{full} is {value}; expected {types[name].removesuffix(' | None')}"
            )


def _refuse_repeated(option: str, key: Key, classes: dict[Key, str], lists: set[Key]) -> None:
    """Refuse a second list of texts, such as paths, and enter the first."""
    types = arguments(classes.get(key[:-1], "")) or {}
    if not key or "list[str]" not in types.get(key[-1], ""):
        return
    if key in lists and not option.endswith("+"):
        raise ConfigurationError(
            f"{option} is typed twice, and the second value would replace the first: give both as "
            f"one list, {option} '[A, B]', or the second as {option}+ B"
        )
    lists.add(key)


def _note(key: Key, node: yaml.Node | None, folder: Path, classes: dict[Key, str]) -> None:
    """Enter the classes that a layer names, in place of those that it replaces."""
    if isinstance(node, yaml.ScalarNode) and node.value.endswith(CONFIGURATIONS):
        file = folder / node.value
        _note(key, yaml.compose(read_text(file), _LOADER), file.parent, classes)
    elif isinstance(node, yaml.ScalarNode):
        key = key[:-1] if key[-1:] == ("class_path",) else key
        for replaced in [each for each in classes if each[: len(key)] == key]:
            del classes[replaced]
        classes[key] = node.value
    elif isinstance(node, yaml.MappingNode):
        for name, value in sorted(node.value, key=lambda pair: pair[0].value != "class_path"):
            _note((*key, *_parts(str(name.value))), value, folder, classes)
