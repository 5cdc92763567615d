"""YAML, read as the command line reads it."""

from __future__ import annotations

import os
from typing import Any

import yaml
from jsonargparse import get_loader

from files.paths import read_text


def plain_yaml(text: str) -> Any:
    """Return what YAML says, in plain types: ``1e-4`` is a number, and a date is text."""
    return get_loader("yaml")(text)


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Return what a user's file says, as ``plain_yaml``.

    Raises:
        OSError: As ``read_text``.
        ValueError: It is no YAML; the message names it.
    """
    try:
        return plain_yaml(read_text(path))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{os.fspath(path)} is no YAML: {error}") from error
