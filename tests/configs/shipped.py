"""All shipped configurations: those of users, and those that only benchmarks read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.conftest import REPO

ROOTS = (REPO / "configs", REPO / "benchmarks" / "configs")
PATHS = {  # by what the parser knows them as, such as data/photos.yaml
    path.relative_to(root).as_posix(): path
    for root in ROOTS
    for path in sorted(root.rglob("*.y*ml"))
    if path.relative_to(root).parts[0] not in ("schema", "cars", "miniature", "soak.yaml")
}
NAMES = {path: name for name, path in PATHS.items()}


def content(file: str | Path) -> Any:
    """A file's content, in which the files that it names have their names in `PATHS`."""
    path = PATHS[file] if isinstance(file, str) else file

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [named(inner) for inner in value]
        if isinstance(value, str) and value.endswith(".yaml"):
            return NAMES.get((path.parent / value).resolve(), value)
        return value

    return named(yaml.safe_load(path.read_text()))
