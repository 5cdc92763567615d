"""``export``: facts about exported weights, and the licences of the weights they began with."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import yaml

from callbacks.provenance import commit
from callbacks.results_file import made_by
from callbacks.weights import digest_of
from commands.weights import EXPORT, manifest
from files.paths import expand_path
from lightning_modules.backbone.frozen import sources
from lightning_modules.image_model import ImageModel, class_path
from lightning_modules.weights import EXPORTED, read_file, read_metadata

if TYPE_CHECKING:
    from commands.export import Origin

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
FILES = (".pth", ".pt", ".ckpt", ".safetensors")


class About(TypedDict):
    """Facts about exported weights.

    enlarger: Version of this project.
    commit: Commit of the exporting code; None outside of git.
    model: The model's class path.
    init_args: Its arguments, as configured.
    scale: Scale factor.
    run: Name of the run.
    weights: File name of the weights, and whether they are EMA.
    sha256: SHA-256 of that file; None without a file.
    step: Training steps; None if unknown.
    frozen: Sources of frozen parts that are not among the tensors, by part.
    licences: Licences of published weights that the configuration names, by name.
    """

    enlarger: str
    commit: str | None
    model: str
    init_args: dict[str, Any]
    scale: float
    run: str
    weights: str
    sha256: str | None
    step: int | None
    frozen: dict[str, str]
    licences: dict[str, str]


def describe_export(model: ImageModel, origin: Origin) -> About:
    """Return the facts about a model's weights.

    Args:
        model: The model with its weights.
        origin: Where the weights come from.
    """
    arguments = origin.config["model"].get("init_args") or {}
    named = licences(arguments, model.scale)
    if origin.file is not None:
        named |= licences(str(origin.file), model.scale)
    return {
        "enlarger": tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["version"],
        "commit": commit(),
        "model": class_path(model),
        "init_args": arguments,
        "scale": model.scale,
        "run": origin.run.resolve().name,
        "weights": Path(made_by(model) or "").name,
        "sha256": None if origin.file is None else digest_of(origin.file),
        "step": None if origin.file is None else _step(origin.file),
        "frozen": sources(model),
        "licences": named,
    }


def _step(file: Path) -> int | None:
    if file.suffix == ".safetensors":
        step = json.loads(read_metadata(file).get("step", "null"))
    else:
        step = read_file(file).get("global_step") if file.suffix == ".ckpt" else None
    return step if isinstance(step, int) else None


def licences(named: Any, scale: float, seen: frozenset[Path] = frozenset()) -> dict[str, str]:
    """Return the known licences of published weights that arguments name.

    Found by a name in ``configs/weights.yaml``, a file's hash there, an exported file, or a run.

    Args:
        named: Arguments of a model, or any value in them.
        scale: The scale that replaces ``{scale}``.
        seen: Folders of runs already visited.
    """
    found: dict[str, str] = {}
    for text in _strings(named):
        found |= _licences_of(text.replace("{scale}", f"{scale:g}"), scale, seen)
    return found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _licences_of(name: str, scale: float, seen: frozenset[Path]) -> dict[str, str]:
    entries = manifest()
    if name in entries:
        return {name: entries[name]["licence"]}
    try:
        path = Path(expand_path(name, "model"))
    except ValueError:  # not a path
        return {}
    if os.path.isfile(path / EXPORT):  # unlike pathlib, os.path accepts a text of any length
        path = path / EXPORT
    if os.path.isfile(path) and path.suffix in FILES:
        return _licences_of_file(path)
    config = path / "config.yaml"
    if not os.path.isfile(config) or path.resolve() in seen:
        return {}
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    model = content.get("model") if isinstance(content, dict) else None
    return licences(model, scale, seen | {path.resolve()})


def _licences_of_file(path: Path) -> dict[str, str]:
    about = read_metadata(path) if path.suffix == ".safetensors" else {}
    if EXPORTED in about:
        return dict(json.loads(about.get("licences", "{}")))
    digest = digest_of(path)
    known = manifest().items()
    return {name: entry["licence"] for name, entry in known if entry["sha256"] == digest}
