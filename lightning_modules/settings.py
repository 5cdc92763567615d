"""Groups of settings, as results name them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

Option = str | int | float


def changed(settings: Any) -> dict[str, Option]:
    """Return the plain settings of a dataclass that differ from their defaults.

    Args:
        settings: The dataclass.
    """
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    defaults = {field.name: field.default for field in fields(settings)}
    return {name: as_option(v) for name, v in values.items() if v != defaults[name]}


def as_option(value: Any) -> Option:
    """Return a setting as results show it: lists as words, true and false as in YAML."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, str | int | float) else type(value).__name__
