"""Tests; a package, because a dependency installs a top-level package `tests` that would win."""
