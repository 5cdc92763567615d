"""Write the tables of docs/migrating.md: ``python docs/make_migrating.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
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
    """Return all tables as Markdown."""
    parts = []
    for section, title in TITLES.items():
        parts.append(f"\n## {title}\n\n| option | Enlarger | |\n|---|---|---|\n")
        parts += [_row(option, entry) for option, entry in table()[section].items()]
    parts.append(
        "\n## Classes\n\nBy their `type`: as it is written, or else in small letters.\n\n"
        "| type | Enlarger |\n|---|---|\n"
    )
    for kind, title in CLASSES.items():
        parts.append(f"| **{title}** | |\n")
        parts += _classes(table()["classes"][kind])
    return "".join(parts)


def _row(option: str, entry: Mapping[str, Any]) -> str:
    key = entry.get("to", entry.get("reads"))
    ours = f"`{key.replace('.init_args', '')}`" if isinstance(key, str) else ""
    return f"| `{option}` | {ours} | {entry.get('note', '')} |\n"


def _classes(entries: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in entries.items():
        parts = [f"`{entry['class']}`"] if "class" in entry else []
        if "spandrel" in entry:
            architecture = entry["spandrel"]
            if isinstance(architecture, dict):
                architecture = ", ".join(architecture.values())
            parts.append(f"`lightning_modules.Spandrel` with `architecture: {architecture}`")
        if "note" in entry:
            parts.append(entry["note"])
        yield f"| `{name}` | {'; '.join(parts)} |\n"


def page(text: str) -> str:
    """Return the page with its tables renewed.

    Args:
        text: The page.
    """
    introduction = text.partition(MARK)[0]
    return introduction + MARK + tables()


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
