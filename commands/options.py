"""Options of the groups of ``main.py``, and public names, read from sources: importing is slow."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# File and class of each group.
SOURCES = {
    "data": ("datamodules/base.py", "SRDataModule"),
    "run": ("commands/run/directory.py", "RunOptions"),
    "tiling": ("lightning_modules/sampling/tiling.py", "Tiling"),
    "checkpoint": ("commands/run/checkpoints.py", "Checkpoints"),
    "writer": ("callbacks/predict/writer.py", "Writer"),
    "encode": ("commands/encode.py", "EncodeOptions"),
    "export": ("commands/export/export.py", "ExportOptions"),
    "trainer": ("pytorch/trainer/trainer.py", "Trainer"),  # of lightning
}
ROOMS = ("lightning_modules", "datamodules", "degradations", "callbacks")


class Option(NamedTuple):
    """What ``--help`` says of an option."""

    about: str  # first clause of its explanation
    default: str  # as Python writes it; empty without one


@functools.cache
def options(group: str) -> dict[str, Option]:
    """Return the options of a group by name; none if its source cannot be found.

    Args:
        group: A key of ``SOURCES``.
    """
    file, name = SOURCES[group]
    folder = _lightning() if group == "trainer" else ROOT
    if folder is None:
        return {}
    tree = ast.parse((folder / file).read_text(encoding="utf-8"))
    found = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    about = _explained(ast.get_docstring(found) or "")
    return {key: Option(about.get(key, ""), text) for key, text in _defaults(found).items()}


def _lightning() -> Path | None:
    spec = importlib.util.find_spec("lightning")  # finds the package without importing it
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _defaults(found: ast.ClassDef) -> dict[str, str]:
    # Of a constructor, or the fields of a dataclass.
    for node in found.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            own = node.args
            missing = [None] * (len(own.args) - len(own.defaults))
            pairs = [*zip(own.args, [*missing, *own.defaults], strict=True)]
            pairs += zip(own.kwonlyargs, own.kw_defaults, strict=True)
            return {a.arg: ast.unparse(d) if d else "" for a, d in pairs if a.arg != "self"}
    fields = [n for n in found.body if isinstance(n, ast.AnnAssign)]
    return {ast.unparse(n.target): ast.unparse(n.value) if n.value else "" for n in fields}


def _explained(docstring: str) -> dict[str, str]:
    # First clause of each argument of a docstring of Google's style.
    _, _, section = docstring.partition("Args:\n")
    parts = re.split(r"^    (\w+): ", section.partition("\n\nRaises:")[0], flags=re.MULTILINE)[1:]
    texts = (" ".join(text.split()) for text in parts[1::2])
    first = (re.split(r"[.;](?:\s|$)", text, maxsplit=1)[0].replace("``", "") for text in texts)
    return dict(zip(parts[::2], first, strict=True))


@functools.cache
def stub(room: str) -> dict[str, str]:
    """Return the public names of a room with their modules below it, from its stub file.

    Args:
        room: Name of the folder, such as ``callbacks``.
    """
    tree = ast.parse((ROOT / room / "__init__.pyi").read_text(encoding="utf-8"))
    lines = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {name.name: node.module or "" for node in lines for name in node.names}


def public_names(room: str) -> list[str]:
    """Return what users write for the public names of a room, such as ``callbacks.PSNR``."""
    return [f"{room}.{name}" for name in stub(room)]
