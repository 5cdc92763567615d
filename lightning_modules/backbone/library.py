"""Networks of diffusers: of random weights, or from a folder or the hub."""

from __future__ import annotations

import os
from inspect import signature
from pathlib import Path
from typing import Any

from lightning_modules.backbone.frozen import refuse


def library_class(kind: str) -> Any:
    """A class of diffusers, which takes seconds to import and which no help needs."""
    import diffusers

    return getattr(diffusers, kind)


def untrained(kind: str, config: dict[str, Any]) -> Any:
    """A network of random weights.

    Args:
        kind: Name of the class.
        config: Its arguments, as in a ``config.json``.

    Raises:
        ValueError: An argument that the class does not have.
    """
    made = library_class(kind)
    known = signature(made.__init__).parameters
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    unknown = [key for key in plain if key not in known]
    if unknown:
        raise ValueError(f"the network's arguments have {', '.join(unknown)}; {kind} has no such")
    return made.from_config(plain)


def pretrained(kind: str, path: str, subfolder: str | None, revision: str | None) -> Any:
    """A trained network, in diffusers' layout of folders.

    Args:
        kind: Name of the class.
        path: Folder, which may hold environment variables, or name on the hub.
        subfolder: Where in it.
        revision: Branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: The folder holds no network, or the hub cannot be reached and its cache
            has none.
        ValueError: The weights do not fit the configuration.
    """
    place = os.path.expandvars(path)
    folder = Path(place, subfolder or "")
    if "$" in place:
        raise FileNotFoundError(f"{path}: the environment variable in it is not set")
    if Path(place).is_dir() and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} has no config.json: expected a network in diffusers' layout; is `subfolder` "
            "right?"
        )
    try:
        network, notes = library_class(kind).from_pretrained(
            place,
            subfolder=subfolder,
            revision=revision,
            output_loading_info=True,
            low_cpu_mem_usage=False,  # which wants accelerate
            ignore_mismatched_sizes=True,  # they are refused below, with what is missing
        )
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"cannot load {place} ({subfolder}): {reason}") from error
    reshaped = [f"{name} {tuple(a)} for {tuple(b)}" for name, a, b in notes["mismatched_keys"]]
    refuse(str(folder), notes["missing_keys"], notes["unexpected_keys"], reshaped)
    return network
