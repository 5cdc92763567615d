"""What a training lacks, all of it at once, before anything is loaded.

Addresses are those of ``configs/weights.yaml`` and ``configs/needs.yaml``.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from callbacks.metrics.base import WeightsMetric
from commands.check.findings import Finding, command_as_typed, path_as_typed
from commands.errors import CONFIGS, EXPERIMENTS
from files.manifest import manifest, place_of
from files.network import answers, hub_answers
from files.own_modules import import_own
from files.paths import expand_path, glob_paths
from files.yaml import read_yaml

REPOSITORY = re.compile(r"[\w-]+/[\w.-]+")  # of the hub
OF_REPOSITORY = ("network", "vae", "path")  # arguments that may name one
OF_IMAGES = ("root", "hr", "lr", "urls", "files")  # arguments of sources


def find_missing(config: Mapping[str, Any]) -> list[Finding]:
    """Return what training would not find; what it would fetch itself, or can do without, last.

    Args:
        config: The whole configuration, of plain types, with defaults.
    """
    scale = f"{config['data']['init_args'].get('scale', 1):g}"
    places: list[tuple[str, str]] = []
    for part in ("train", "val"):
        places += _image_places(config["data"]["init_args"].get(part), f"data.{part}")
    found: list[Finding | None] = []
    for key, value in _strings_with_keys(config["model"], "model"):
        found.append(_missing_file(key, value.replace("{scale}", scale)))
    for key, value in places:
        found.append(_missing_images(key, value.replace("{scale}", scale)))
    for callback in config["trainer"].get("callbacks") or []:
        found += _missing_of_callback(callback)
    findings = [finding for finding in found if finding is not None]
    for variable in ("ENLARGER_DATA", "ENLARGER_WEIGHTS"):
        if variable not in os.environ and any(f"${variable}" in each.text for each in findings):
            fix = f"export {variable}=FOLDER"
            findings.append(Finding("broken", variable, "is not set", fix))
    # Captions are files of the data: with the data, its own check names a missing one.
    if any(finding.subject.startswith("data.") for finding in findings):
        findings += _missing_captions(config["model"])
    findings.sort(key=lambda finding: finding.level != "broken")
    first_of: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        first_of.setdefault((finding.text, finding.fix), finding)
    return list(first_of.values())


@functools.cache
def _addresses() -> dict[str, Any]:
    """Return ``configs/needs.yaml``: where sets, files and repositories of the hub come from."""
    content: dict[str, Any] = read_yaml(CONFIGS / "needs.yaml")
    return content


def _is_missing(value: str, *about: str | None) -> str:
    """Return the sentence that something is missing, with the facts that are known of it."""
    facts = ", ".join(fact for fact in about if fact)
    return f"{value} is missing{f' ({facts})' if facts else ''}"


def _strings_with_keys(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield all strings of a configuration with their keys.

    Keys are written without ``init_args``, and items of a list have the list's key.
    """
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _strings_with_keys(value, key if name == "init_args" else f"{key}.{name}")
    elif isinstance(node, list):
        for value in node:
            yield from _strings_with_keys(value, key)
    elif isinstance(node, str):
        yield key, node


def _image_places(source: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the folders, files and addresses of sources of images, with their keys."""
    texts = list(_strings_with_keys(source, key))
    with_files = {key.rpartition(".")[0] for key, _ in texts if key.endswith(".files")}
    roots = {key.rpartition(".")[0]: text for key, text in texts if key.endswith(".root")}
    for key, text in texts:
        place, _, name = key.rpartition(".")
        if name == "files" and place in roots:
            yield key, os.path.join(roots[place], text)
        elif name in OF_IMAGES and not (name == "root" and place in with_files):
            yield key, text


def _exists(path: str) -> bool:
    """Return whether there is a file or folder of a path, which may be a pattern."""
    try:
        expanded = expand_path(path, "")
    except ValueError:  # a variable is not set
        return False
    pattern = re.sub(r"\{[^}]*\}", "*", expanded)  # {000..007}
    return os.path.exists(expanded) or bool(glob_paths(pattern))


def _missing_file(key: str, value: str) -> Finding | None:
    """Return what is missing of a value of the model: a file, published weights, a repository."""
    name = key.rpartition(".")[2]
    is_weights = name == "weights" or name.endswith("_weights")
    if is_weights and value in manifest():
        return _missing_weights(key, value)
    is_place = is_weights or name in OF_REPOSITORY or value.startswith("$")
    if not is_place or _exists(value):
        return None
    if name in OF_REPOSITORY and REPOSITORY.fullmatch(value):
        return _missing_repository(key, value)
    stem = Path(value).name
    for recipe in sorted(EXPERIMENTS.rglob(f"{stem}.yaml")):
        file = path_as_typed(str(recipe.relative_to(CONFIGS.parent)))
        fix = command_as_typed(f"fit --config {file}")
        return Finding("broken", key, _is_missing(value), fix)
    known = _addresses()["files"].get(stem, {})
    text = _is_missing(value, known.get("source"), known.get("size"), known.get("licence"))
    fix = command_as_typed(known["command"]) if "command" in known else ""
    return Finding("broken", key, text, fix)


def _missing_repository(key: str, repository: str) -> Finding | None:
    """Return a repository of the hub as missing, unless it was downloaded."""
    for name in ("config.json", "unet/config.json", "vae/config.json", "model_index.json"):
        if isinstance(try_to_load_from_cache(repository, name), str):
            return None
    known = _addresses()["hub"].get(repository, {})
    text = _is_missing(repository, known.get("size"), known.get("licence"))
    level = "look" if hub_answers() else "broken"
    return Finding(level, key, text, f"hf download {repository}")


def _missing_weights(key: str, name: str, optional: bool = False) -> Finding | None:
    """Return published weights as missing; broken only if they are needed and no source answers."""
    entry = manifest()[name]
    if place_of(name) is not None:
        return None
    level = "look" if optional or answers(entry["source"]) else "broken"
    text = _is_missing(entry["file"], entry["licence"], entry["source"])
    return Finding(level, key, text, command_as_typed(f"weights --fetch {name}"))


def _missing_images(key: str, value: str) -> Finding | None:
    """Return images as missing, with the address of a set that is known by its folder."""
    if "://" in value or value.startswith("pipe:") or _exists(value):
        return None
    fix = ""
    for name in _addresses()["prepare"]:
        if f"{value}/".startswith(f"$ENLARGER_DATA/{name}/"):
            fix = command_as_typed(f"prepare {name} ARCHIVE")
    parts = Path(value).parts
    for name, known in _addresses()["data"].items():
        for pattern in known["folders"]:
            if any(fnmatch.fnmatchcase(part.lower(), pattern.lower()) for part in parts):
                source = f"{name}: {known['source']}"
                text = _is_missing(value, source, known.get("size"), known.get("licence"))
                return Finding("broken", key, text, fix)
    return Finding("broken", key, _is_missing(value), fix)


def _missing_captions(model: Mapping[str, Any]) -> list[Finding]:
    """Return what an encoder of texts reads; images are captioned before they are packed."""
    encoder = model["init_args"].get("encoder")
    is_of_texts = isinstance(encoder, dict) and getattr(_class_of(encoder), "reads", False)
    if not is_of_texts or model["init_args"].get("prompt"):
        return []
    known = _addresses()["captions"]
    text = f"each of these images needs a caption, NAME.txt beside it, {known['about']}"
    fix = f"{known['source']} ({known['size']}, {known['licence']})"
    return [Finding("broken", "model.encoder", text, fix)]


def _missing_of_callback(callback: Mapping[str, Any]) -> Iterator[Finding | None]:
    """Yield what is missing of a callback: files of its arguments, weights of its metric."""
    key, arguments = callback["class_path"], callback.get("init_args") or {}
    for name, value in _strings_with_keys(arguments, key):
        if value.startswith("$"):
            yield _missing_file(name, value)
    kind = _class_of(callback)
    if isinstance(kind, type) and issubclass(kind, WeightsMetric):
        metric = kind(**arguments)
        for name in metric.files:
            if metric.strict_weights:
                yield _missing_weights(key, name)
            else:
                yield _missing_weights(f"{key}, off without it", name, optional=True)


def _class_of(part: Mapping[str, Any]) -> Any:
    """Return the class of a part of a configuration."""
    module, _, name = part["class_path"].rpartition(".")
    return getattr(import_own(module), name)
