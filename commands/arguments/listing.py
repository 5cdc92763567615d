"""``main.py list``: what there is to choose from, read from the sources without importing them."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from commands.errors import CONFIGS, EXPERIMENTS, ROOT, ConfigurationError, did_you_mean

ROOMS = ("lightning_modules", "datamodules", "degradations", "callbacks")
BASES = {  # name of a base class: kind of what derives from it; of several, the uppermost here
    "ImageModel": "methods",
    "Loss": "losses",
    "Degradation": "degradations",
    "Stage": "stages",
    "Source": "datasets",
    "Metric": "metrics",
    "Callback": "callbacks",
    "LightningDataModule": "parts",
    "Augmentation": "parts",
    "Mixing": "parts",
}
HINTS = {
    "methods": "python main.py fit --model.help NAME",
    "networks": "python main.py fit --model lightning_modules.Regression --model.network.help NAME "
    "or --model.network FILE",
    "parts": "model.space, model.denoiser, model.encoder, model.lr_scheduler: docs/methods; "
    "data.crops.augment, data.crops.mixing: docs/data.md",
    "losses": "model.losses of lightning_modules.RealESRGAN; docs/methods/real_esrgan.md",
    "degradations": "python main.py fit --degradation.help NAME",
    "stages": "stages of degradations.Pipeline: docs/degradations.md",
    "datasets": "python main.py fit --data.train.help NAME",
    "metrics": "python main.py fit --trainer.callbacks.help NAME",
    "callbacks": "python main.py fit --trainer.callbacks.help NAME",
    "experiments": "python main.py fit --config configs/experiment/NAME",
    "weights": "--model.weights NAME; python main.py weights --fetch NAME downloads it",
}
_LONGEST = 90  # characters of a sentence that is shown as a whole


class Entry(NamedTuple):
    """One line: a name, and what it is."""

    name: str
    about: str


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
    _print_entries(entries(kind))
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
        return list(_published_weights())
    presets = list(_network_files()) if kind == "networks" else []
    classes = sorted(
        Entry(f"{room}.{name}", _first_sentence(ast.get_docstring(_classes(room)[name]) or ""))
        for room in ROOMS
        for name in _public_names(room) & _classes(room).keys()
        if _kind_of(room, name) == kind
    )
    return classes + presets


@functools.cache
def _public_names(room: str) -> set[str]:
    """Return the public names of a room, such as ``callbacks``, from its stub file."""
    tree = ast.parse((ROOT / room / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {name.name for node in imports for name in node.names}


@functools.cache
def _classes(room: str) -> dict[str, ast.ClassDef]:
    """Return all classes of a room by name, also private ones, read without importing them."""
    files = sorted((ROOT / room).rglob("*.py"))
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    nodes = [node for tree in trees for node in tree.body]
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}


def _kind_of(room: str, name: str) -> str | None:
    """Return the kind of a public class, a key of ``HINTS``; None if no configuration names it."""
    ancestors = _ancestors_of(name, _classes(room))
    bases = {ast.unparse(base) for node in ancestors for base in node.bases}
    kinds = [kind for base, kind in BASES.items() if base in bases]
    if _is_abstract(ancestors) or not (kinds or room == "lightning_modules"):
        return None
    if kinds:
        return kinds[0]
    # A network's own __init__ begins with the scale (docs/plugins/network.md); others are parts.
    own = {method.name: ast.unparse(method.args) for method in _methods_of(ancestors[:1])}
    is_network = own.get("__init__", "").startswith("self, scale:")
    return "networks" if is_network else "parts"


def _is_abstract(ancestors: Sequence[ast.ClassDef]) -> bool:
    """Return whether nothing overrides an abstract method; ancestors as of ``_ancestors_of``."""
    parts = [part for node in ancestors for part in node.body]
    written = {ast.unparse(part.target) for part in parts if isinstance(part, ast.AnnAssign)}
    abstract = set[str]()
    for method in _methods_of(ancestors):
        is_abstract = "abstractmethod" in map(ast.unparse, method.decorator_list)
        (abstract if is_abstract else written).add(method.name)
    return not abstract <= written


def _methods_of(classes: Sequence[ast.ClassDef]) -> list[ast.FunctionDef]:
    """Return the methods that some classes define."""
    return [part for node in classes for part in node.body if isinstance(part, ast.FunctionDef)]


def _ancestors_of(name: str, classes: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """Return a class and what it derives from, as its ``__mro__`` would, without libraries'."""
    if name not in classes:
        return []
    bases = [ast.unparse(base) for base in classes[name].bases]
    return [classes[name], *(node for base in bases for node in _ancestors_of(base, classes))]


def _first_sentence(text: str) -> str:
    """Return the first sentence of a docstring; of a long one, the part before its colon."""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    sentence = re.split(r"(?<!i\.e\.)(?<!e\.g\.)(?<=\.)\s", paragraph, maxsplit=1)[0]
    if len(sentence) > _LONGEST:
        sentence = re.split(r"[:;]\s", sentence, maxsplit=1)[0]
    return sentence.rstrip(".:;")


def _network_files() -> Iterator[Entry]:
    """Yield the networks of ``configs/network/``, with the comment at their top."""
    for file in sorted((CONFIGS / "network").glob("*.yaml")):
        about = file.read_text(encoding="utf-8").partition("\n")[0]
        yield Entry(f"configs/network/{file.name}", about.removeprefix("# "))


def _experiments() -> Iterator[Entry]:
    """Yield the rows of the table of experiments' README: a file, and two of its cells."""
    text = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    for line in text.splitlines():
        if match := re.match(r"\| \[`(.+?)`\]", line):
            cells = [cell.strip() for cell in line.split("|")]
            about = f"{cells[2]}; {cells[3]}"
            yield Entry(match[1], re.sub(r"\[(.+?)\]\(.+?\)", r"\1", about))


def _published_weights() -> Iterator[Entry]:
    """Yield the published weights, with the class that uses them and their licence."""
    from files.manifest import manifest  # here: it loads a YAML library

    for name, about in manifest().items():
        yield Entry(name, f"{about['used_by']}; licence: {about['licence']}")


def _print_entries(lines: Sequence[Entry]) -> None:
    """Print entries in two columns."""
    width = max((len(entry.name) for entry in lines), default=0)
    for name, about in lines:
        sys.stdout.write(f"{name:<{width}}  {about}\n")
