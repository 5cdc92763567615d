"""Layers of a configuration, files and typed values, merged into one plain dictionary.

One rule: a group (``trainer``) and a class (``model``, a source) keep the keys that a later layer
does not set. Everything else is replaced as a whole: a value, a list (``callbacks``), a dictionary
of named classes (``val``, ``test``), and a class that is given by the name of a file.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from files.configuration.yaml_loader import (
    NO_CONFIGURATION,
    NO_FILE,
    StrictLoader,
    is_configuration,
)
from files.own_modules import import_own
from files.paths import CONFIGURATIONS, read_text

SPEC = ("class_path", "init_args", "dict_kwargs")
KeyPath = tuple[str, ...]  # of a key, without ``init_args``
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class _OfFile(dict[str, Any]):
    """A class that a file describes: it replaces an earlier one."""


@dataclass
class Merged:
    """Layers merged so far.

    Attributes:
        values: The dictionary; classes are ``class_path`` with ``init_args``, or a path alone.
        places: ``FILE, line N`` of keys that files set, by their path without ``init_args``. A key
            that was typed has none.
    """

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)

    def add_file(self, name: str) -> None:
        """Merge a whole configuration.

        Args:
            name: Its file.

        Raises:
            ValueError: If it cannot be read, or holds no keys.
        """
        content = self._read(Path(name), (), ())
        if not isinstance(content, dict):
            raise ValueError(
                f"a configuration file must hold keys with values, but {name} holds "
                f"{str(content)[:60]!r}"
            )
        for key, value in content.items():
            self._put(str(key).split("."), value)

    def add_typed(self, key: str, text: str) -> None:
        """Merge a value from the command line.

        Args:
            key: Its key, which may omit ``init_args``; with ``+`` at its end, to add to a list.
            text: The value: plain text, which its argument's type reads; YAML in brackets or
                braces; or a file.

        Raises:
            ValueError: If a file cannot be read.
        """
        path = _path_of(key)
        for place in list(self.places):
            if place[: len(path)] == path:
                del self.places[place]
        self._put(key.split("."), self._typed(text, path))

    def _put(self, path: Sequence[str], value: Any) -> None:
        *above, name = path
        holder = self.values
        for part in above:
            holder = _entered(holder, part)
        place = _place(holder, name)
        before = place.get(name)
        if name.endswith("+"):
            _append(place, name.removesuffix("+"), value)
        elif before is None or isinstance(value, _OfFile):
            place[name] = _without_plus(value)
        elif isinstance(before, str | dict) and _changes_class(before, value):
            self._put_class(path, place, value)
        elif isinstance(before, dict) and isinstance(value, dict) and self._is_group(path):
            for key, part in value.items():
                self._put((*path, str(key)), part)
        else:
            place[name] = _without_plus(value)

    def _put_class(self, path: Sequence[str], place: dict[str, Any], value: Any) -> None:
        before = _as_class(place[path[-1]])
        later = _as_class(value)
        arguments = copy.deepcopy(before.get("init_args") or {})
        if later.get("class_path") in (None, before.get("class_path")):
            place[path[-1]] = {**before, **later, "init_args": arguments}
        else:
            arguments = _accepted(later["class_path"], arguments)
            place[path[-1]] = {**later, "init_args": arguments}
        for key, part in (later.get("init_args") or {}).items():
            self._put((*path, str(key)), part)

    def _is_group(self, path: Sequence[str]) -> bool:
        # A group of the command, or a dataclass. The keys of another dictionary are data.
        holder: Any = self.values
        class_path = ""
        names: list[str] = []
        for name in path:
            if "class_path" in holder:
                class_path = holder["class_path"]
                names = []
            holder = _place(holder, name)[name]
            if isinstance(holder, list):
                holder = holder[-1]
            if name not in SPEC:
                names.append(name)
        if class_path:
            return dataclass_at(class_path, names) is not None
        return len(names) == 1

    def _typed(self, text: str, path: KeyPath) -> Any:
        if os.path.lexists(text):
            return self._referred(text, Path(), path, ())
        stripped = text.strip()
        if stripped == "null":
            return None
        is_bracketed = stripped[:1] + stripped[-1:] in ("[]", "{}")
        if not is_bracketed and not stripped.startswith("class_path:"):
            return text
        try:
            value = yaml.load(text, StrictLoader)
            names = yaml.load(text, yaml.BaseLoader)
        except (yaml.YAMLError, UnicodeError):
            return text
        if isinstance(value, list) and _are_names(value, names):
            value = names
        return self._resolved(value, Path(), path, ())

    def _read(self, file: Path, path: KeyPath, above: tuple[Path, ...]) -> Any:
        """Return the content of a file, and note where its keys are.

        Args:
            file: The file.
            path: The key whose value it is.
            above: The files that named it.
        """
        if not is_configuration(str(file)):
            raise ValueError(f"{'.'.join(path) or 'config'}: '{file}' {NO_CONFIGURATION}")
        try:
            loader = StrictLoader(read_text(file))
            node = loader.get_single_node()
            value = loader.construct_document(node) if node is not None else None
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text: save it so") from error
        except yaml.YAMLError as error:
            hint = " (a tab? YAML is indented by spaces)" if "any token" in str(error) else ""
            raise ValueError(str(error).replace(NO_FILE, f'"{file}"') + hint) from error
        self._locate(node, path, str(file), set())
        return self._resolved(value, file.parent, path, (*above, file))

    def _locate(self, node: yaml.Node | None, path: KeyPath, file: str, seen: set[int]) -> None:
        if node is None or id(node) in seen or isinstance(node, yaml.ScalarNode):
            return
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._locate(item, path, file, seen)
            return
        for key, value in node.value:
            below = path + _path_of(str(key.value))
            self.places[below] = f"{file}, line {key.start_mark.line + 1}"
            self._locate(value, below, file, seen)

    def _resolved(self, value: Any, folder: Path, path: KeyPath, above: tuple[Path, ...]) -> Any:
        """Return a value with the contents of files in place of their names."""
        if isinstance(value, str):
            return self._referred(value, folder, path, above)
        if isinstance(value, list):
            return [self._resolved(part, folder, path, above) for part in value]
        if not isinstance(value, dict):
            return value
        result = {}
        for key, part in value.items():
            below = path + _path_of(str(key))
            result[key] = self._resolved(part, folder, below, above)
        return result

    def _referred(self, text: str, folder: Path, path: KeyPath, above: tuple[Path, ...]) -> Any:
        file = folder / text
        if not text.endswith(CONFIGURATIONS) or not file.is_file() or file in above:
            return _as_path(text)
        is_top = len(path) == 1
        places = dict(self.places)
        try:
            content = self._read(file, path, above)
        except ValueError:
            if is_top or not text.endswith(".json"):  # which may be text of another program
                raise
            self.places = places
            return text
        if not is_top and not _is_part(content, path):
            self.places = places
            return text
        if isinstance(content, dict) and "class_path" in content:
            return _OfFile(content)
        return content


def imported(class_path: str) -> Any:
    """Return the class of a path; None if there is none.

    Args:
        class_path: As in a configuration.
    """
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(import_own(module), name)
    except (ImportError, AttributeError, ValueError):
        return None


def dataclass_at(class_path: str, names: Sequence[str]) -> Any:
    """Return the dataclass that an argument of a class takes; None if it takes none.

    Args:
        class_path: The class.
        names: The argument, and fields below it.
    """
    kind = imported(class_path)
    for name in names:
        hint = hints_of(kind).get(name)
        kinds = (hint, *typing.get_args(hint))
        kind = next((each for each in kinds if dataclasses.is_dataclass(each)), None)
    return kind


def hints_of(kind: Any) -> dict[str, Any]:
    """Return the types of a class's arguments, also of those that its bases take.

    Args:
        kind: The class.
    """
    hints: dict[str, Any] = {}
    for base in reversed(getattr(kind, "__mro__", ())):
        try:
            hints |= typing.get_type_hints(base.__init__)
        except (NameError, TypeError, AttributeError):  # names that exist for type checkers alone
            continue
    return hints


# ------------------------------------------------------------------------------------------ merging


def _entered(holder: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the dictionary below a key; of a list, its last item."""
    place: Any = _place(holder, name)
    key: Any = name
    if isinstance(place.get(name), list) and place[name]:
        place = place[name]
        key = -1
        value = place[-1]
    else:
        value = place.get(name)
    if isinstance(value, str):
        value = {"class_path": value}
    elif not isinstance(value, dict):
        value = {}
    place[key] = value
    return value


def _place(holder: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what has a key: of a class, its arguments."""
    if name in SPEC or not holder.keys() & {"class_path", "init_args"}:
        return holder
    if not isinstance(holder.get("init_args"), dict):
        holder["init_args"] = {}
    arguments: dict[str, Any] = holder["init_args"]
    return arguments


def _append(place: dict[str, Any], name: str, value: Any) -> None:
    before = place.get(name)
    items = [] if before is None else _as_list(before)
    place[name] = items + _as_list(value)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _without_plus(value: Any) -> Any:
    # `callbacks+:` where there is nothing to add to.
    if isinstance(value, list):
        return [_without_plus(item) for item in value]
    if not isinstance(value, dict):
        return value
    result: dict[Any, Any] = {}
    for key, part in value.items():
        if isinstance(key, str) and key.endswith("+"):
            _append(result, key.removesuffix("+"), _without_plus(part))
        else:
            result[key] = _without_plus(part)
    return result


def _is_class(value: Any) -> bool:
    return isinstance(value, dict) and bool(value.keys() & {"class_path", "init_args"})


def _changes_class(before: str | dict[str, Any], value: Any) -> bool:
    if isinstance(value, str):
        is_name = _CLASS.fullmatch(value) and not os.path.lexists(value)
        return bool(is_name) and _is_class(before)
    if not isinstance(value, dict):
        return False
    return isinstance(before, str) or _is_class(before)


def _as_class(value: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(value, str):
        return {"class_path": value}
    return value if value.keys() & {*SPEC} else {"init_args": value}


def _accepted(class_path: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of another class that a class takes, too."""
    kind = imported(str(class_path))
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_class_arguments(kind, fail_untyped=False)
    except (TypeError, ValueError):
        return {}
    accepted = {}
    for name, value in arguments.items():
        try:
            one = Namespace({name: copy.deepcopy(value)})  # type: ignore[no-untyped-call]
            parser.validate(one, skip_required=True)
        except (KeyError, TypeError, ValueError, ArgumentError):
            continue
        accepted[name] = value
    return accepted


def _path_of(key: str) -> KeyPath:
    names = key.removesuffix("+").split(".")
    return tuple(name for name in names if name != "init_args")


def _are_names(items: list[Any], texts: list[Any]) -> bool:
    # A folder may be called 2024.
    if not all(isinstance(text, str) for text in texts):
        return False
    return any(isinstance(item, str) for item in items) or all(map(os.path.lexists, texts))


def _as_path(text: str) -> str:
    """Return the name of a file so that the library takes it neither for null nor for a class."""
    if not os.path.lexists(text):
        return text
    module, dot, _ = text.partition(".")
    is_code = dot and _CLASS.fullmatch(text) and os.path.isfile(f"{module}.py")
    return f"./{text}" if is_code or text == "null" else text


def _is_part(content: Any, path: tuple[str, ...]) -> bool:
    # Else it is a file that an argument names.
    if isinstance(content, list):
        return path[-1:] == ("callbacks",) or any(map(_is_class, content))
    return _is_class(content)
