"""Versions of installed packages."""

from __future__ import annotations

import contextlib
from importlib.metadata import PackageNotFoundError, version


def installed(package: str) -> str | None:
    """Return the version of a package, or None if it is not installed.

    Args:
        package: Its name for pip.
    """
    with contextlib.suppress(PackageNotFoundError):
        return version(package)
    return None
