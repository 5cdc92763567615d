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
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    group_class = classes[name]
    explanations = _explanations(ast.get_docstring(group_class) or "")
    described = {}
    for key, default in _defaults(group_class).items():
        described[key] = Option(explanations.get(key, ""), default)
    return described


def _lightning() -> Path | None:
    spec = importlib.util.find_spec("lightning")  # finds the package without importing it
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _defaults(node: ast.ClassDef) -> dict[str, str]:
    """Return the arguments of a constructor, or the fields of a dataclass, with their defaults."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _defaults_of_constructor(statement.args)
    defaults = {}
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign):
            defaults[ast.unparse(statement.target)] = _as_text(statement.value)
    return defaults


def _defaults_of_constructor(arguments: ast.arguments) -> dict[str, str]:
    defaults = {argument.arg: "" for argument in (*arguments.args, *arguments.kwonlyargs)}
    del defaults["self"]
    with_default = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    for argument, value in zip(with_default, arguments.defaults, strict=True):
        defaults[argument.arg] = _as_text(value)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        defaults[argument.arg] = _as_text(default)
    return defaults


def _as_text(value: ast.expr | None) -> str:
    return ast.unparse(value) if value else ""


def _explanations(docstring: str) -> dict[str, str]:
    """Return the first clause of each argument of a docstring of Google's style."""
    section = docstring.partition("Args:\n")[2].partition("\n\nRaises:")[0]
    _, *parts = re.split(r"^    (\w+): ", section, flags=re.MULTILINE)
    names = parts[::2]
    texts = parts[1::2]
    explanations = {}
    for name, text in zip(names, texts, strict=True):
        on_one_line = " ".join(text.split())
        first_clause = re.split(r"[.;](?:\s|$)", on_one_line, maxsplit=1)[0]
        explanations[name] = first_clause.replace("``", "")
    return explanations


@functools.cache
def stub(room: str) -> dict[str, str]:
    """Return the public names of a room with their modules below it, from its stub file.

    Args:
        room: Name of the folder, such as ``callbacks``.
    """
    tree = ast.parse((ROOT / room / "__init__.pyi").read_text(encoding="utf-8"))
    modules = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for name in node.names:
                modules[name.name] = node.module or ""
    return modules


def public_names(room: str) -> list[str]:
    """Return what users write for the public names of a room, such as ``callbacks.PSNR``."""
    return [f"{room}.{name}" for name in stub(room)]
