"""Write the tables of docs/migrating.md: ``python docs/make_migrating.py``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from commands.migrate import table  # noqa: E402  (its folder is added above)

PAGE = ROOT / "docs" / "migrating.md"
MARK = "<!-- made by docs/make_migrating.py of configs/migrating.yaml -->\n"
TITLES = {
    "run": "Runs",
    "model": "Networks, weights, losses",
    "data": "Data",
    "degradation": "Degradation",
    "trainer": "Training, validation, logs",
}
CLASSES = {
    "networks": "Networks",
    "discriminators": "Discriminators",
    "optimizers": "Optimisers",
    "schedules": "Schedules",
    "losses": "Losses",
    "metrics": "Metrics",
}


def tables() -> str:
    """Return all tables as Markdown: of the options and classes that have a counterpart."""
    parts = []
    for section, title in TITLES.items():
        parts.append(f"\n## {title}\n\n| options | Enlarger | |\n|---|---|---|\n")
        options: dict[tuple[str, str], list[str]] = {}
        for option, entry in table()[section].items():
            key = entry.get("to", entry.get("reads"))
            if isinstance(key, str):
                row = (key.replace(".init_args", ""), entry.get("note", ""))
                options.setdefault(row, []).append(option)
        parts += [
            f"| {_names(group)} | `{key}` | {note} |\n" for (key, note), group in options.items()
        ]
    parts.append("\n## Classes\n\n| types | Enlarger |\n|---|---|\n")
    for kind, title in CLASSES.items():
        parts.append(f"| **{title}** | |\n")
        types: dict[str, list[str]] = {}
        for name, entry in table()["classes"][kind].items():
            types.setdefault(_ours(entry), []).append(name)
        parts += [f"| {_names(group)} | {ours} |\n" for ours, group in types.items()]
    return "".join(parts)


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _ours(entry: Mapping[str, Any]) -> str:
    parts = [f"`{entry['class'].removeprefix('lightning_modules.')}`"] if "class" in entry else []
    if "spandrel" in entry:
        architecture = entry["spandrel"]
        if isinstance(architecture, dict):
            architecture = ", ".join(architecture.values())
        parts.append(f"spandrel's {architecture}")
    if "note" in entry:
        parts.append(entry["note"])
    return "; ".join(parts)


def page(text: str) -> str:
    """Return the page with its tables renewed.

    Args:
        text: The page.
    """
    introduction = text.partition(MARK)[0]
    return introduction + MARK + tables()


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
