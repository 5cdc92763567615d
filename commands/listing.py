"""``main.py list``: what there is to choose from, read from the sources without importing them."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from commands.errors import EXPERIMENTS, ROOT, ConfigurationError, did_you_mean
from files.paths import walk

WEIGHTS = ROOT / "configs" / "weights.yaml"
ROOMS = ("lightning_modules", "datamodules", "degradations", "callbacks")
MODEL = "ImageModel"  # what methods derive from
HINTS = {
    "methods": "python main.py fit --model.help NAME",
    "networks": "python main.py fit --model lightning_modules.Regression --model.network.help NAME",
    "degradations": "python main.py fit --degradation.help NAME",
    "datasets": "python main.py fit --data.train.help NAME",
    "metrics": "python main.py fit --trainer.callbacks.help NAME",
    "experiments": "python main.py fit --config configs/experiment/NAME",
    "weights": "--model.weights NAME; python main.py weights --fetch NAME downloads it",
}
_DEEP = 2  # folders below the working directory that are searched for a user's classes


class Entry(NamedTuple):
    """One line: a name, and what it is."""

    name: str
    about: str


class _Class(NamedTuple):
    about: str
    bases: tuple[str, ...]


def main(words: Sequence[str]) -> int:
    """Run the command.

    Args:
        words: What is to be listed; the kinds, with their numbers, if empty.

    Raises:
        ConfigurationError: If there is no such kind.
    """
    if len(words) > 1 or (words and words[0] not in HINTS):
        raise ConfigurationError(
            f"list takes one of {', '.join(HINTS)}, not {' '.join(words)!r}"
            f"{did_you_mean(words[-1], HINTS)}"
        )
    if not words:
        for kind in HINTS:
            sys.stdout.write(f"{kind:<14}{len(entries(kind)):>4}   python main.py list {kind}\n")
        return 0
    (kind,) = words
    _write(entries(kind))
    if found := yours(kind):
        sys.stdout.write("\nyours\n")
        _write(found)
    sys.stdout.write(f"\n{HINTS[kind]}\n")
    return 0


def entries(kind: str) -> list[Entry]:
    """Return what Enlarger has of a kind, by name.

    Args:
        kind: A key of ``HINTS``.
    """
    if kind == "experiments":
        return list(_experiments())
    if kind == "weights":
        return list(_weights())
    return sorted(
        Entry(f"{room}.{name}", found.about)
        for room in ROOMS
        for name, found in public(room).items()
        if _kind_of(room, name, _bases()) == kind
    )


def yours(kind: str) -> list[Entry]:
    """Return classes of a kind in the working directory, where it is not Enlarger's own."""
    here = Path.cwd()
    if here == ROOT:
        return []
    known, found = _bases(), list[Entry]()
    for path in sorted(_python_files(here)):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        module = ".".join(path.relative_to(here).with_suffix("").parts)
        for name, own in _classes(tree).items():
            room = next((r for r in ROOMS for base in own.bases if base in public(r)), None)
            if room and _kind_of(room, name, {**known, name: own.bases}) == kind:
                found.append(Entry(f"{module}.{name}", own.about))
    return found


@functools.cache
def public(room: str) -> dict[str, _Class]:
    """Return the public classes and functions of a room, which its stub file names."""
    stub, found = ROOT / room / "__init__.pyi", dict[str, _Class]()
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            file = ROOT / room / f"{(node.module or '').replace('.', '/')}.py"
            own = _classes(ast.parse(file.read_text(encoding="utf-8")))
            found.update({alias.name: own[alias.name] for alias in node.names})
    return found


def _kind_of(room: str, name: str, bases: dict[str, tuple[str, ...]]) -> str:
    if room != "lightning_modules":
        return {"datamodules": "datasets", "degradations": "degradations"}.get(room, "metrics")
    above, seen = [name], set[str]()
    while above:
        one = above.pop()
        if one == MODEL:
            return "methods"
        if one not in seen:
            seen.add(one)
            above += bases.get(one, ())
    return "networks"


@functools.cache
def _bases() -> dict[str, tuple[str, ...]]:
    """Return the base classes of all that methods are made of, public or not."""
    found = dict[str, tuple[str, ...]]()
    for path in sorted(_python_files(ROOT / ROOMS[0])):
        classes = _classes(ast.parse(path.read_text(encoding="utf-8")))
        found.update({name: own.bases for name, own in classes.items()})
    return found


def _classes(tree: ast.Module) -> dict[str, _Class]:
    return {
        node.name: _Class(
            _first_sentence(ast.get_docstring(node) or ""),
            tuple(ast.unparse(base).rpartition(".")[2] for base in getattr(node, "bases", ())),
        )
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=[.:;])\s", paragraph, maxsplit=1)[0].rstrip(".:;")


def _python_files(folder: Path) -> Iterator[Path]:
    for place, inner, files in walk(folder):
        depth = len(place.relative_to(folder).parts)
        inner[:] = [d for d in inner if not d.startswith((".", "_")) and depth < _DEEP]
        yield from (place / file for file in files if file.endswith(".py"))


def _experiments() -> Iterator[Entry]:
    text = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    for line in text.splitlines():
        if match := re.match(r"\| \[`(.+?)`\]", line):
            _, _, what, hardware, *_ = (cell.strip() for cell in line.split("|"))
            yield Entry(match[1], re.sub(r"\[(.+?)\]\(.+?\)", r"\1", f"{what}; {hardware}"))


def _weights() -> Iterator[Entry]:
    import yaml

    for name, about in yaml.safe_load(WEIGHTS.read_text(encoding="utf-8")).items():
        yield Entry(name, f"{about['used_by']}; licence: {about['licence']}")


def _write(found: Sequence[Entry]) -> None:
    width = max((len(entry.name) for entry in found), default=0)
    for name, about in found:
        sys.stdout.write(f"{name:<{width}}  {about}\n")
