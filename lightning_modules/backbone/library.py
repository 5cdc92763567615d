"""Networks of diffusers, with random weights, or from a folder or the hub."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HUB_OFFLINE

from files.paths import expand_path
from lightning_modules.backbone.frozen import refuse


def library_class(kind: str) -> Any:
    """Return a class of diffusers; imported late, as that takes seconds."""
    import diffusers

    return getattr(diffusers, kind)


def untrained(kind: str, config: dict[str, Any]) -> Any:
    """Create a network with random weights.

    Args:
        kind: Name of the class.
        config: Its arguments, as in a ``config.json``.

    Raises:
        ValueError: If the class does not have an argument.
    """
    made = library_class(kind)
    known = signature(made.__init__).parameters
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    unknown = [key for key in plain if key not in known]
    if unknown:
        raise ValueError(f"unknown arguments of the network: {kind} has no {', '.join(unknown)}")
    return made.from_config(plain)


def pretrained(key: str, kind: str, path: str, subfolder: str | None, revision: str | None) -> Any:
    """Load a trained network in diffusers' layout.

    Args:
        key: Name of the argument, for messages.
        kind: Name of the class.
        path: Folder, or name on the hub. Environment variables are expanded.
        subfolder: Subfolder of the network.
        revision: Branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: If the folder has no network, or neither the hub nor its cache does.
        ValueError: If the weights do not fit the configuration.
    """
    place = expand_path(path, key)
    folder = Path(place, subfolder or "")
    if Path(place).is_dir() and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{key}: {folder} has no config.json; expected a network in diffusers' layout: is "
            "`subfolder` right?"
        )
    try:
        network, notes = library_class(kind).from_pretrained(
            place,
            subfolder=subfolder,
            revision=revision,
            output_loading_info=True,
            low_cpu_mem_usage=False,  # True requires accelerate
            ignore_mismatched_sizes=True,  # reported below, with missing tensors
        )
    except OSError as error:
        raise FileNotFoundError(_cannot_load(key, place, subfolder, error)) from error
    reshaped = [f"{name} {tuple(a)} for {tuple(b)}" for name, a, b in notes["mismatched_keys"]]
    refuse(
        f"the tensors of {folder} do not fit the network",
        notes["missing_keys"],
        notes["unexpected_keys"],
        reshaped,
    )
    return network


def _cannot_load(key: str, place: str, subfolder: str | None, error: OSError) -> str:
    reason = str(error).splitlines()[0]
    if Path(place).is_dir():
        return f"{key}: cannot load {Path(place, subfolder or '')}: {reason}"
    offline = ", and HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else f": {reason}"
    return (
        f"{key}: cannot load {place} ({subfolder}), which is neither a folder nor in Hugging "
        f"Face's cache{offline}; download it by `hf download {place}` with internet access, or "
        "set a folder in diffusers' layout"
    )
