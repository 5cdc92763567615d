"""How the value of an argument is read: typed text stays as it is typed.

The library reads each typed value as YAML, opens each existing file that a value names, and imports
any dotted text, whatever the argument's type.
"""

from __future__ import annotations

import functools
import os
import pathlib
import types
import typing
from argparse import Action
from collections.abc import Iterator
from typing import Any

import yaml
from jsonargparse import Namespace

from commands.arguments.jsonargparse_internals import (
    ActionTypeHint,
    expects_mapping,
    hint_of,
    is_class_hint,
)
from commands.arguments.layers import replace_typed
from files import paths
from files.yaml_loader import NO_CONFIGURATION, is_configuration, strict_loader


class Typed(str):
    """Text from the command line that must reach its argument as typed.

    The library reads a ``str`` as YAML before it finds the argument of a nested class, but not a
    subclass of ``str``.
    """

    __slots__ = ()


class TypedArgument(ActionTypeHint):
    """An argument that keeps text as typed, and lets files and containers replace earlier ones."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take a typed value."""
        take: Any = super().__call__
        if len(args) != 4:  # the library copies an argument so
            return take(*args, **kwargs)
        parser, config, value, option = args
        if isinstance(value, str) and isinstance(option, str):
            names = names_in(self, value)
            if option in self.option_strings:
                refuse_file(self, value)
                if names is not None or is_text(self, value):
                    return config.update(str(value) if names is None else names, self.dest)
            if option.endswith("+") and names is not None:
                value = names
            elif _reaches_in(self, option, value):
                _replace(self, config, value, option)
                take(parser, config, Typed(value), option, **kwargs)
                return config.update(plain(config[self.dest]), self.dest)
        _replace(self, config, value, option)
        return take(parser, config, value, option, **kwargs)

    def instantiate_classes(self, value: Any) -> Any:
        """Make the objects that a value describes; text that is final describes none."""
        make: Any = super().instantiate_classes
        return value if isinstance(value, str) and is_final(self, value) else make(value)


def _replace(action: Action, config: Namespace, value: Any, option: str | None) -> None:
    # The library would merge a file into earlier values: arguments of an experiment's model or
    # metrics would stay among those of the file that replaces them.
    is_file = isinstance(value, str) and value.endswith(paths.CONFIGURATIONS)
    if is_file and option in action.option_strings and action.dest in config:
        del config[action.dest]
    elif isinstance(option, str):
        replace_typed(config, option)


def is_other_file(value: Any) -> bool:
    """Return whether a value names a file that is no configuration, and is not to be opened."""
    return isinstance(value, str) and os.path.exists(value) and not is_configuration(value)


def refuse_file(action: Action, value: Any) -> None:
    """Raise for the name of a file in place of a class: ``a.jpg`` would import a module ``a``.

    Raises:
        TypeError: If so.
    """
    kinds = [*_kinds(hint_of(action))]
    if str in kinds or not any(map(is_class_hint, kinds)):
        return
    means = _meaning(value) if isinstance(value, str) else value
    means = [*means.values()] if isinstance(means, dict) else means
    for each in means if isinstance(means, list) else [value]:
        if is_other_file(each):
            raise TypeError(f'Parser key "{action.dest}": {each!r} {NO_CONFIGURATION}')


def _kinds(hint: Any) -> Iterator[Any]:
    # The types of a value, and of the items of a list or dictionary.
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for part in parts:
            yield from _kinds(part)
    elif typing.get_origin(hint) in (list, dict):
        yield from _kinds(parts[-1])
    else:
        yield hint


def _reaches_in(action: Action, option: str, value: str) -> bool:
    # Whether a nested argument, or the list that it is added to, decides how the value is read.
    name = next((o for o in action.option_strings if option.startswith(f"{o}.")), None)
    if name is None:
        return option.endswith("+") and is_text(action, value)
    if expects_mapping(action):
        return "." in option[len(name) + 1 :] or _is_no_yaml(value)
    return True


def names_in(action: Action, value: str) -> list[str] | None:
    """Return the items of a list of text, ``[2024, a.png]``, as typed; None for anything else."""
    kinds = typing.get_args(hint_of(action)) or (hint_of(action),)
    if list[str] not in (hint_of(action), *kinds) or os.path.lexists(value):
        return None
    stripped = value.strip()
    if stripped[:1] + stripped[-1:] != "[]":
        return None
    try:
        names: list[Any] = yaml.load(stripped, yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeError):
        return None
    return names if all(isinstance(name, str) for name in names) else None


def is_text(action: Action, value: str) -> bool:
    """Return whether what is typed for an argument is plain text, neither YAML nor a class."""
    return _takes_text(hint_of(action)) and _is_no_yaml(value)


def is_final(action: Action, value: str) -> bool:
    """Return whether text of a file, which was read as YAML, is what it says.

    Else it would be read as YAML again ("null" in quotes would be null), or tried as a class.
    """
    if not _takes_text(hint_of(action)) or is_configuration(value):
        return False
    means = _meaning(value)
    if isinstance(means, str):
        return _is_path(value)
    return not isinstance(means, bool | int | float)


def _is_no_yaml(value: str) -> bool:
    if is_configuration(value):
        return False
    is_path = _is_path(value)
    means = _meaning(value)
    if isinstance(means, bool | int | float) or (isinstance(means, str) and not is_path):
        return False  # the type of the argument decides
    stripped = value.strip()
    inline = stripped[:1] + stripped[-1:] in ("[]", "{}") or stripped.startswith("class_path:")
    return is_path or not (inline or stripped == "null")


def _is_path(value: str) -> bool:
    # Also a missing image: no class has such a name.
    path = pathlib.PurePath(value)
    return os.path.lexists(value) or paths.is_image(path) or paths.is_video(path)


@functools.lru_cache(1024)  # each value is looked at many times, as its class is parsed again
def _meaning(value: str) -> Any:
    try:
        return yaml.load(str(value), strict_loader())  # libyaml takes no subclass of str
    except (yaml.YAMLError, UnicodeError):  # UnicodeError: a name that is not UTF-8
        return None


def _takes_text(hint: Any) -> bool:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(map(_takes_text, typing.get_args(hint)))
    return hint is str


def plain(value: Any) -> Any:
    """Return a value with plain ``str`` in place of ``Typed``."""
    if isinstance(value, Typed):
        return str(value)
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, Namespace):
        for key, part in vars(value).items():
            value[key] = plain(part)
    return value
