"""The site's generated pages: keys of configurations by the schema, and the API by docstrings."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "configs" / "schema"
ROOMS = ("lightning_modules", "datamodules", "degradations", "callbacks", "commands", "files")

Schema = dict[str, Any]

# The pages of keys: title, what stands first, the definitions of the schema that are listed.
PAGES = {
    "model": ("Methods", "`model`: one of these classes.", ("ImageModel",)),
    "network": (
        "Networks and parts of methods",
        "Arguments of methods that are classes themselves.",
        ("Module", "Denoiser", "Space", "Schedule", "ResidualShift", "TextEncoder", "Texts"),
    ),
    "data": ("Data", "`data`, and its sources of images.", ("SRDataModule", "Source")),
    "degradation": (
        "Degradations",
        "`degradation`: a recipe; a `Pipeline` takes stages.",
        ("Degradation", "Stage"),
    ),
    "callbacks": (
        "Callbacks",
        "`trainer.callbacks`: metrics, and what watches a run.",
        ("Callback",),
    ),
    "trainer": ("Trainer", "Lightning's own.", ("trainer",)),
    "options": (
        "Options",
        "Groups of the command line that may stand in files, too.",
        ("run", "checkpoint", "tiling", "writer"),
    ),
}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages.

    Args:
        files: Of the site.
        config: MkDocs' own.

    Raises:
        PluginError: There is no schema yet.
    """
    from mkdocs.exceptions import PluginError
    from mkdocs.structure.files import File

    if not (SCHEMA / "experiment.json").is_file():
        raise PluginError("there is no configs/schema: python main.py schema writes it")
    whole = json.loads((SCHEMA / "experiment.json").read_text(encoding="utf-8"))
    pages = {f"reference/keys/{name}.md": keys_page(name, whole) for name in PAGES}
    for room in ROOMS:
        pages |= dict(api_pages(room))
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


# --------------------------------------------------------------------------------------------- keys


def keys_page(name: str, whole: Schema) -> str:
    """Tables of all keys of some kinds of classes.

    Args:
        name: Of the page.
        whole: The schema of an experiment.
    """
    title, first, kinds = PAGES[name]
    lines = [f"# {title}", "", first, ""]
    for kind in kinds:
        definition = whole["$defs"][kind]
        if "anyOf" in definition:
            lines += class_tables(definition)
        else:
            lines += [f"## {kind}", "", *table(definition["properties"])]
    return "\n".join(lines)


def class_tables(definition: Schema) -> Iterator[str]:
    """A heading and a table for each class of a definition that is ours."""
    for part in definition["anyOf"]:
        properties = part.get("properties", {})
        path = properties.get("class_path", {}).get("const", "")
        if path.startswith(ROOMS):
            yield from (f"## {path}", "", cell(part.get("description", "")), "")
            yield from table(properties["init_args"].get("properties", {}))


def table(properties: Schema) -> list[str]:
    """A row for each key; none for those that only add to a list."""
    shown = {name: value for name, value in properties.items() if not name.endswith("+")}
    if not shown:
        return ["No arguments.", ""]
    rows = []
    for name, value in shown.items():
        about = cell(value.get("description", ""))
        rows.append(f"| `{name}` | {cell(type_of(value))} | {default_of(value)} | {about} |")
    return ["| key | type | default | |", "|---|---|---|---|", *rows, ""]


def type_of(schema: Schema) -> str:
    """A JSON Schema's type in a few words."""
    if "$ref" in schema:
        return f"a `{schema['$ref'].rpartition('/')[2]}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "anyOf" in schema:
        parts = [type_of(part) for part in schema["anyOf"]]
        return " or ".join(dict.fromkeys(part for part in parts if part))
    if "prefixItems" in schema:
        return f"[{', '.join(type_of(part) for part in schema['prefixItems'])}]"
    kinds = schema.get("type", "anything")
    if kinds == "array":
        return f"list of {type_of(schema['items'])}" if "items" in schema else "list"
    return kinds if isinstance(kinds, str) else " or ".join(kinds)


def default_of(schema: Schema) -> str:
    """The default as YAML has it, or nothing."""
    if "default" not in schema:
        return ""
    text = json.dumps(schema["default"])
    return f"`{text}`" if len(text) < 60 else "..."


def cell(text: str) -> str:
    """Text that fits into a row: one line, code as Markdown has it."""
    return re.sub(r"\s+", " ", text.replace("``", "`")).replace("|", "\\|").replace("<", "&lt;")


# ---------------------------------------------------------------------------------------------- API


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
