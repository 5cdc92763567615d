"""Make a degradation from YAML files, for tools without a model or data.

The files are those of the command line: a bare ``class_path`` with ``init_args``, or an experiment,
of which only the key ``degradation`` is used. Of several files, later ones win.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from degradations.base import Degradation
from files.paths import CONFIGURATIONS
from files.yaml import read_yaml


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
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Degradation, "degradation")
    words: list[str] = []
    found: float | None = None
    for path in map(Path, paths):
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise ValueError(f"{path} holds no configuration")
        part: Any = str(path)  # what --degradation gets: a file, or the section of an experiment
        if "degradation" in content:
            part = content["degradation"]
            if isinstance(part, str) and part.endswith(CONFIGURATIONS):
                part = str(path.parent / part)
        words += ["--degradation", part if isinstance(part, str) else json.dumps(part)]
        found = _scale_of(content.get("data"), path.parent) or _scale_of(part, Path()) or found
    chosen = scale or found or default_scale
    if chosen is not None:
        words += ["--degradation.scale", str(chosen)]
    try:
        config = parser.parse_args(words)
        degradation: Degradation = parser.instantiate(config).degradation
    except (ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{' with '.join(map(str, paths))}: {error}") from error
    return degradation


def _scale_of(part: Any, folder: Path) -> float | None:
    """Return the scale in a section or its file; None without one."""
    if isinstance(part, str) and part.endswith(CONFIGURATIONS):
        part = read_yaml(folder / part)
    arguments = part.get("init_args") if isinstance(part, dict) else None
    return arguments.get("scale") if isinstance(arguments, dict) else None
