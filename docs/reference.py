"""The site's pages of the API, from docstrings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("lightning_modules", "datamodules", "degradations", "callbacks", "commands", "files")


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages.

    Args:
        files: Of the site.
        config: MkDocs' own.
    """
    from mkdocs.structure.files import File

    for room in ROOMS:
        for uri, content in api_pages(room):
            files.append(File.generated(config, uri, content=content))
    return files


def api_pages(room: str) -> Iterator[tuple[str, str]]:
    """A page for each file of a room, and one that lists them by their first lines.

    Args:
        room: A folder of the repository.
    """
    rows = []
    for path in sorted((ROOT / room).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if path.stem.startswith("_"):
            continue
        module, name = ".".join(parts), "/".join(parts[1:])
        about = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[
            0
        ]
        rows.append(f"| [`{name}.py`]({room}/{name}.md) | {cell(about)} |")
        yield f"reference/{room}/{name}.md", f"# {module}\n\n::: {module}\n"
    listed = "\n".join(["| | |", "|---|---|", *rows])
    # Not an index.md, or the section that lists the rooms would take the first one's as its own.
    yield f"reference/{room}.md", f"# {room}\n\n{listed}\n"


def cell(text: str) -> str:
    """Text that fits into a row: one line, code as Markdown has it."""
    return re.sub(r"\s+", " ", text.replace("``", "`")).replace("|", "\\|").replace("<", "&lt;")
