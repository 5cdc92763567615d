"""What a run lacks, all of it at once, and the size of its model, before anything is loaded.

``check`` prints both. Addresses are those of ``configs/weights.yaml`` and ``configs/needs.yaml``.
"""

from __future__ import annotations

import copy
import fnmatch
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from huggingface_hub import try_to_load_from_cache
from jsonargparse import Namespace
from torch.overrides import TorchFunctionMode

from callbacks.metrics.base import WeightsMetric
from callbacks.weights import folders, manifest, place_of
from commands.arguments.parser import Parser
from commands.errors import CONFIGS, EXPERIMENTS
from files.network import answers, hub_answers
from files.own_modules import import_own
from files.paths import expand_path, glob_paths, read_text
from files.yaml import plain_yaml
from lightning_modules.base import ImageModel

REPOSITORY = re.compile(r"[\w-]+/[\w.-]+")  # of the hub
OF_REPOSITORY = ("network", "vae", "path")  # arguments that may name one
OF_IMAGES = ("root", "hr", "lr", "urls", "files")  # arguments of sources
GIGABYTE = 10**9
# Values that torch's optimisers keep for each weight; 2 for others.
MOMENTS = {"SGD": 1, "RMSprop": 1, "Adagrad": 1, "Muon": 1}


class Need(NamedTuple):
    """A file, a network of the hub or a folder of images that is missing.

    key: The argument that names it, or the class.
    stops: Whether training cannot do without, nor fetch it.
    value: Its value.
    source: Its address, or the command that makes it.
    about: Size and licence, as far as they are known.
    folder: Where it belongs.
    """

    key: str
    stops: bool
    value: str
    source: str = ""
    about: str = ""
    folder: str = ""


def missing(config: Mapping[str, Any]) -> list[Need]:
    """Return what training would not find.

    Args:
        config: The whole configuration, of plain types, with defaults.
    """
    scale = config["data"]["init_args"].get("scale", 1)
    needs: list[Need | None] = []
    for key, value in _texts(config["model"], "model"):
        needs.append(_of_model(key, value.replace("{scale}", f"{scale:g}")))
    for part in ("train", "val"):
        for key, value in _places(config["data"]["init_args"].get(part), f"data.{part}"):
            needs.append(_of_data(key, value.replace("{scale}", f"{scale:g}")))
    for callback in config["trainer"].get("callbacks") or []:
        needs += _of_metric(callback)
    merged: dict[str, Need] = {}
    for need in dict.fromkeys(needs):
        if need is None:
            continue
        same = merged.get(need.value)
        if same is not None:
            need = same._replace(key=f"{same.key}; {need.key}", stops=same.stops or need.stops)
        merged[need.value] = need
    return list(merged.values())


def listed(needs: Sequence[Need]) -> str:
    """Return a table of what is missing; lines are not broken, so that commands can be copied."""
    lines = []
    for need in needs:
        lines.append(f"missing: {need.value}  ({need.key})")
        facts = {"get it": need.source, "it is": need.about, "put it into": need.folder}
        lines += [f"    {name:<12}{fact}" for name, fact in facts.items() if fact]
    for variable in ("ENLARGER_DATA", "ENLARGER_WEIGHTS"):
        if variable not in os.environ and any(f"${variable}" in need.value for need in needs):
            lines.append(f"{variable} is not set: export {variable}=FOLDER")
    return "".join(f"{line}\n" for line in lines)


@functools.cache
def _known() -> dict[str, Any]:
    content: dict[str, Any] = plain_yaml(read_text(CONFIGS / "needs.yaml"))
    return content


def _about(entry: Mapping[str, Any]) -> str:
    parts = [entry.get("size"), entry.get("licence")]
    return ", ".join(part for part in parts if part)


def _texts(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield all texts of a configuration with their keys."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _texts(value, key if name == "init_args" else f"{key}.{name}")
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value, key)
    elif isinstance(node, str):
        yield key, node


def _places(source: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the folders, files and addresses of sources of images, with their keys."""
    texts = list(_texts(source, key))
    with_files = {key.rpartition(".")[0] for key, _ in texts if key.endswith(".files")}
    roots = {key.rpartition(".")[0]: text for key, text in texts if key.endswith(".root")}
    for key, text in texts:
        place, _, name = key.rpartition(".")
        if name == "files" and place in roots:
            yield key, os.path.join(roots[place], text)
        elif name in OF_IMAGES and not (name == "root" and place in with_files):
            yield key, text


def _exists(path: str) -> bool:
    try:
        expanded = expand_path(path, "")
    except ValueError:  # a variable is not set
        return False
    pattern = re.sub(r"\{[^}]*\}", "*", expanded)  # {000..007}
    return os.path.exists(expanded) or bool(glob_paths(pattern))


def _of_model(key: str, value: str) -> Need | None:
    name = key.rpartition(".")[2]
    is_weights = name == "weights" or name.endswith("_weights")
    if name not in OF_REPOSITORY and not is_weights:
        return None
    entry = manifest().get(value) if is_weights else None
    if entry is not None:
        return _of_file(key, value) if place_of(entry) is None else None
    if _exists(value):
        return None
    if not is_weights and REPOSITORY.fullmatch(value):
        return _of_hub(key, value)
    stem = Path(value).name
    recipes = sorted(EXPERIMENTS.rglob(f"{stem}.yaml"))
    if recipes:
        recipe = recipes[0].relative_to(CONFIGS.parent)
        return Need(key, True, value, f"python main.py fit --config {recipe}", folder=value)
    known = _known()["files"].get(stem, {})
    return Need(key, True, value, known.get("source", ""), _about(known), str(Path(value).parent))


def _of_hub(key: str, repository: str) -> Need | None:
    for name in ("config.json", "unet/config.json", "vae/config.json", "model_index.json"):
        if isinstance(try_to_load_from_cache(repository, name), str):
            return None
    known = _known()["hub"].get(repository, {})
    return Need(
        key,
        not hub_answers(),
        repository,
        f"hf download {repository}",
        _about(known),
        "the hub's cache",
    )


def _of_file(key: str, name: str, stops: bool = True) -> Need:
    entry = manifest()[name]
    command = f"python main.py weights --fetch {name}, from {entry['source']}"
    stops = stops and not answers(entry["source"])
    return Need(key, stops, entry["file"], command, entry["licence"], str(folders()[0]))


def _of_data(key: str, value: str) -> Need | None:
    if "://" in value or value.startswith("pipe:") or _exists(value):
        return None
    parts = Path(value).parts
    folder = os.path.dirname(value) if "*" in parts[-1] else value
    for name, known in _known()["data"].items():
        for pattern in known["folders"]:
            if any(fnmatch.fnmatchcase(part.lower(), pattern.lower()) for part in parts):
                source = f"{name}: {known['source']}{_preparation(value)}"
                return Need(key, True, value, source, _about(known), folder)
    return Need(key, True, value, folder=folder)


def _preparation(folder: str) -> str:
    for name in _known()["prepare"]:
        if f"{folder}/".startswith(f"$ENLARGER_DATA/{name}/"):
            return f"; then python main.py prepare {name} ARCHIVE"
    return ""


def _of_metric(callback: Any) -> list[Need | None]:
    module, _, name = callback["class_path"].rpartition(".")
    kind = getattr(import_own(module), name)
    if not (isinstance(kind, type) and issubclass(kind, WeightsMetric)):
        return []
    metric = kind(**callback.get("init_args") or {})
    key = callback["class_path"]
    stops = metric.strict_weights
    if not stops:
        key += ", which is off without it"
    lacks = [name for name in metric.files if place_of(manifest()[name]) is None]
    return [_of_file(key, name, stops) for name in lacks]


# ------------------------------------------------------------------------------------------ sizes


class _Empty(TorchFunctionMode):
    """Makes weights of layers without memory; constants stay as they are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def sizes(config: Namespace, lacks: Sequence[Need]) -> str:
    """Return the parameters of the model and the memory of its training, in one line.

    Args:
        config: Configuration of the command.
        lacks: What is missing.
    """
    networks = []
    for need in lacks:
        if need.key.startswith("model.") and not need.key.endswith("weights"):  # loaded later
            networks.append(need.value)
    if networks:
        return f"the size of the model is not known without {', '.join(networks)}"
    content = copy.deepcopy(config.model).as_dict()
    parser = Parser()
    parser.add_subclass_arguments(ImageModel, "model")
    model = _built(parser, parser.parse_object({"model": content}))
    trained = frozen = weights = gradients = 0
    for parameter in model.parameters():
        memory = parameter.numel() * parameter.element_size()
        weights += memory
        if parameter.requires_grad:
            trained += parameter.numel()
            gradients += memory
        else:
            frozen += parameter.numel()
    optimizer = content["init_args"].get("optimizer")
    name = optimizer["class_path"].rpartition(".")[2] if isinstance(optimizer, dict) else "Adam"
    moments = gradients * MOMENTS.get(name, 2)
    callbacks = [callback.class_path for callback in config.trainer.callbacks or []]
    averages = gradients if "callbacks.EMA" in callbacks else 0
    parts = {"weights": weights, "gradients": gradients, "optimiser": moments, "averages": averages}
    memory_text = ", ".join(f"{part} {size / GIGABYTE:.2f}" for part, size in parts.items())
    return (
        f"{trained:,} parameters train, {frozen:,} are frozen; GB of memory: {memory_text}, "
        f"together {sum(parts.values()) / GIGABYTE:.2f}, and activations"
    )


def _built(parser: Parser, config: Namespace) -> ImageModel:
    try:
        with _Empty():
            return cast(ImageModel, parser.instantiate_classes(config)["model"])
    except Exception as error:  # jsonargparse wraps those of constructors
        if "meta tensor" not in str(error):
            raise
        # spandrel moves its networks between devices, so they need memory.
        return cast(ImageModel, parser.instantiate_classes(config)["model"])
