"""Make a degradation from YAML files, for tools without a model or data.

The files are those of the command line: a bare ``class_path`` with ``init_args``, or an experiment,
of which only the key ``degradation`` is used. Of several files, later ones win.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from degradations.base import Degradation
from files.own_modules import import_own
from files.paths import CONFIGURATIONS, read_text
from files.yaml_loader import NO_CONFIGURATION, open_configurations_alone, strict_loader

open_configurations_alone()

# Lines of a parser's message without information for the user.
_NO_COMPLAINT = re.compile(
    r"Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|$"
)


def degradation_of(paths: Sequence[str | Path], scale: float | None = None) -> Degradation:
    """Make the degradation of configuration files.

    Args:
        paths: The files, e.g. ``configs/degradation/bicubic.yaml``; later ones win. Paths in a file
            are relative to it.
        scale: How many times smaller the LR is; by default the result of `scale_in`.

    Raises:
        ValueError: A file cannot be read or is invalid; the message names file, key and value.
    """
    if not paths:
        raise ValueError("no configuration: name a file, e.g. configs/degradation/bicubic.yaml")
    scale = scale if scale is not None else scale_in(paths)
    if scale is None:
        raise ValueError(f"{_listed(paths)} has no data.init_args.scale: give the scale")
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(Degradation, "degradation")
    arguments: list[str] = []
    for path in paths:
        # Unsorted, to keep the order of stages, and of recipes and their weights.
        text = yaml.safe_dump({"degradation": _degradation_part(Path(path))}, sort_keys=False)
        arguments += ["--config", text]
    try:
        config = parser.parse_args([*arguments, "--degradation.init_args.scale", repr(scale)])
        degradation = parser.instantiate(config).degradation
    except (ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{_listed(paths)}: {_short_message(error)}") from error
    if not isinstance(degradation, Degradation):
        raise ValueError(f"{_listed(paths)}: no class_path of a degradation in it")
    return degradation


def scale_in(paths: Sequence[str | Path]) -> float | None:
    """Return the last ``data.init_args.scale`` of the files, or None.

    Raises:
        ValueError: A file cannot be read.
    """
    scale = None
    for path in paths:
        content = _mapping(Path(path))
        data = content.get("data")
        if isinstance(data, str):  # a file, relative to this one
            data = _mapping(Path(path).parent / data)
        for part in (content if "class_path" in content else content.get("degradation"), data):
            arguments = part.get("init_args") if isinstance(part, dict) else None
            if isinstance(arguments, dict) and "scale" in arguments:
                scale = arguments["scale"]
    return scale


def _degradation_part(path: Path) -> Any:
    # The degradation part of a file, with absolute paths.
    content = _mapping(path)
    if "degradation" in content:
        part = content["degradation"]
    elif content.keys() <= {"class_path", "init_args"} and content:
        part = content
    else:
        keys = ", ".join(repr(key) for key in content) or "nothing"
        raise ValueError(
            f"{path} has {keys} at its top; expected class_path and init_args of a degradation, "
            "or the key degradation"
        )
    return _with_absolute_paths(part, path.resolve().parent)


def _mapping(path: Path) -> dict[str, Any]:
    try:
        if not path.name.lower().endswith(CONFIGURATIONS):
            raise ValueError(f"{path} {NO_CONFIGURATION}")
        content = yaml.load(read_text(path), strict_loader())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.constructor.ConstructorError as error:  # valid YAML that the strict loader refuses
        raise ValueError(f"{path}: {_in_one_line(error)}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {_in_one_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {content!r:.60}; expected keys with values")
    return content


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()).replace(' in "<unicode string>", ', ", ")


def _with_absolute_paths(value: Any, folder: Path) -> Any:
    # The text is parsed outside its folder; only recipes are found relative to the file.
    if isinstance(value, dict):
        return {key: _with_absolute_paths(part, folder) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_absolute_paths(part, folder) for part in value]
    if isinstance(value, str) and value.endswith((".yaml", ".yml")):
        if not (folder / value).is_file():
            raise ValueError(f"{folder / value} is named in a configuration but is not a file")
        return str(folder / value)
    return value


def _listed(paths: Sequence[str | Path]) -> str:
    return " with ".join(str(path) for path in paths)


def _short_message(error: BaseException) -> str:
    # The innermost error: the parser wraps it in one of each type that it tried.
    while str(error).startswith("Does not validate against any of the Union") and error.__cause__:
        error = error.__cause__
    keys, class_path, leaf = _parse_message(str(error))
    where = ".init_args.".join(keys)
    if match := re.search(r"[Oo]ption '([^']+)'", leaf):
        name, takes = match[1], ", ".join(_arguments(class_path)) if class_path else ""
        return (
            f"unknown key {f'{where}.init_args.{name}'!r}: {class_path} has no argument {name!r}; "
            f"it takes: {takes or 'none'}"
        )
    if match := re.match(r"the following arguments are required: (.+)", leaf):
        return f"{where}: {class_path} needs {match[1]}"
    value = re.match(r"Expected an? (?:<class ')?([^'>]+)'?>?\. Got value: (.+)", leaf)
    if value:
        return f"{where} is {value[2]}; expected {value[1]}"
    if leaf.startswith(("Not a valid subclass", "Expected an instantiatable class")):
        leaf = "no class_path of a degradation in it"
    return f"{where}: {leaf}" if where else leaf


def _parse_message(message: str) -> tuple[list[str], str | None, str]:
    # The chain of keys, the class tried last, and the first informative line.
    keys: list[str] = []
    class_path = None
    for line in (line.strip().removeprefix("- ") for line in message.splitlines()):
        if match := re.match(r"Type \S*Callable.* expects a function or a callable class: ", line):
            inner = re.search(r"class_path='([^']+)'", line)
            class_path = inner[1] if inner else class_path
            line = line[match.end() :].partition(". Got value: Namespace")[0]
        if match := re.match(r'Parser key "([^"]+)":\s*(.*)', line):
            keys.append(match[1])
            line = match[2]
        if match := re.match(r"Problem with given class_path '([^']+)':", line):
            class_path = match[1]
        elif not _NO_COMPLAINT.match(line):
            return keys, class_path, line
    return keys, class_path, " ".join(message.split())


def _arguments(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    found = getattr(import_own(module), name)
    return [name for name in inspect.signature(found).parameters if name != "scale"]
