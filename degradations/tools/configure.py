"""Make a degradation from YAML files, for tools without a model or data.

The files are those of the command line: a bare ``class_path`` with ``init_args``, or an experiment,
of which only the key ``degradation`` is used. Of several files, later ones win.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from degradations.base import Degradation
from files.configuration.merge import Merged


def degradation_of(
    paths: Sequence[str | Path],
    scale: float | None = None,
    default_scale: float | None = None,
) -> Degradation:
    """Make the degradation of configuration files.

    Args:
        paths: The files, e.g. ``configs/degradation/bicubic.yaml``; later ones win. Paths in a file
            are relative to it.
        scale: How many times smaller the LR is; by default ``data.init_args.scale`` of the files,
            or that of the degradation.
        default_scale: The scale of files without one.

    Raises:
        ValueError: A file cannot be read or is invalid; the message names file, key and value.
    """
    files = " with ".join(map(str, paths))
    merged = Merged()
    for path in paths:
        content = Merged()
        content.add_file(str(path))
        if "degradation" in content.values:
            merged.add_file(str(path))
        else:
            merged.add_typed("degradation", str(path))
    for value in (scale, _scale_in(merged.values), default_scale):
        if value is not None:
            merged.add_typed("degradation.init_args.scale", repr(value))
            break
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Degradation, "degradation")
    try:
        config = parser.parse_object({"degradation": merged.values["degradation"]})
        degradation: Degradation = parser.instantiate(config).degradation
    except (ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{files}: {error}") from error
    return degradation


def _scale_in(values: dict[str, Any]) -> float | None:
    for name in ("data", "degradation"):
        part = values.get(name)
        arguments = part.get("init_args") if isinstance(part, dict) else None
        if isinstance(arguments, dict) and "scale" in arguments:
            scale: float = arguments["scale"]
            return scale
    return None
