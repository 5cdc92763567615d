"""All shipped configurations; those of the miniature are tested with its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from files.yaml import plain_yaml
from tests.conftest import REPO

ROOT = REPO / "configs"
PATHS = {  # by what the parser knows them as, such as data/photos.yaml
    path.relative_to(ROOT).as_posix(): path
    for path in sorted(ROOT.rglob("*.y*ml"))
    if path.relative_to(ROOT).parts[0] != "schema"
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

    return named(plain_yaml(path.read_text()))
