"""Make a degradation from YAML files, for tools without a model or data.

The files are those of the command line: a bare ``class_path`` with ``init_args``, or an experiment,
of which only the key ``degradation`` is used. Of several files, later ones win.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from degradations.base import Degradation
from files.paths import CONFIGURATIONS, read_text
from files.ranges import register_ranges
from files.yaml_loader import NO_CONFIGURATION, strict_loader

# Lines of the parser's messages that say nothing of the mistake.
_NOISE = re.compile(
    r"(- )?(Does not validate|Subtypes:|Errors:|Given value|Expected a <class '(NoneType|dict|list)"
    r"|Subclass types|a (class|dict))"
)

register_ranges()


def degradation_of(paths: Sequence[str | Path], scale: float | None = None) -> Degradation:
    """Make the degradation of configuration files.

    Args:
        paths: The files, e.g. ``configs/degradation/bicubic.yaml``; later ones win. Paths in a file
            are relative to it.
        scale: How many times smaller the LR is; by default the result of `scale_in`.

    Raises:
        ValueError: A file cannot be read or is invalid; the message names file, key and value.
    """
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
        raise ValueError(f"{_listed(paths)}: {_in_short(str(error))}") from error
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


def _in_short(message: str) -> str:
    lines = (line.strip() for line in message.splitlines())
    return " ".join(line.removeprefix("- ") for line in lines if not _NOISE.match(line))
