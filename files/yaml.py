"""YAML, read as the command line reads it."""

from __future__ import annotations

from typing import Any

from jsonargparse import get_loader


def plain_yaml(text: str) -> Any:
    """Return what YAML says, in plain types: ``1e-4`` is a number, and a date is text."""
    return get_loader("yaml")(text)
