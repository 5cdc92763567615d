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
from files.merge import Merged
from files.paths import CONFIGURATIONS, read_text
from files.yaml_loader import NO_CONFIGURATION, StrictLoader

# Lines of the parser's messages that say nothing of the mistake.
_NOISE = re.compile(
    r"(- )?(Does not validate|Subtypes:|Errors:|Given value|Expected a <class '(NoneType|dict|list)"
    r"|Subclass types|a (class|dict))"
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
    files = " with ".join(map(str, paths))
    if scale is None:
        scale = scale_in(paths)
    if scale is None:
        raise ValueError(f"{files} has no data.init_args.scale: give the scale")
    merged = Merged()
    for path in paths:
        content = _mapping(Path(path))
        if "degradation" in content:
            merged.add_file(str(path))
        elif content.keys() & {"class_path", "init_args"}:
            merged.add_typed("degradation", str(path))
        else:
            raise ValueError(f"{path} has neither class_path nor the key degradation")
    merged.add_typed("degradation.init_args.scale", repr(scale))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Degradation, "degradation")
    try:
        config = parser.parse_object({"degradation": merged.values["degradation"]})
        degradation = parser.instantiate(config).degradation
    except (ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{files}: {_in_short(str(error))}") from error
    if not isinstance(degradation, Degradation):
        raise ValueError(f"{files}: no class_path of a degradation in it")
    return degradation


def scale_in(paths: Sequence[str | Path]) -> float | None:
    """Return the last ``data.init_args.scale`` of the files, or None.

    Raises:
        ValueError: A file cannot be read.
    """
    scale = None
    for path in paths:
        content = _mapping(Path(path))
        degradation = content if "class_path" in content else content.get("degradation")
        data = content.get("data")
        if isinstance(data, str):  # a file, relative to this one
            data = _mapping(Path(path).parent / data)
        for part in (degradation, data):
            arguments = part.get("init_args") if isinstance(part, dict) else None
            if isinstance(arguments, dict) and "scale" in arguments:
                scale = arguments["scale"]
    return scale


def _mapping(path: Path) -> dict[str, Any]:
    if not path.name.lower().endswith(CONFIGURATIONS):
        raise ValueError(f"{path} {NO_CONFIGURATION}")
    try:
        content = yaml.load(read_text(path), StrictLoader)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        message = " ".join(str(error).split()).replace(' in "<unicode string>", ', ", ")
        raise ValueError(f"{path} is not YAML: {message}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {content!r:.60}; expected keys with values")
    return content


def _in_short(message: str) -> str:
    lines = []
    for line in message.splitlines():
        if not _NOISE.match(line.strip()):
            lines.append(line.strip().removeprefix("- "))
    return " ".join(lines)
