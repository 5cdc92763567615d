"""``model.init_args.weights``: a path, or a name that callbacks/weights.py looks up."""

from __future__ import annotations

import os
from pathlib import Path

from callbacks import weights
from callbacks.weights import Entry, UnavailableError, WrongWeightsError
from commands.errors import ConfigurationError, did_you_mean

MANIFEST = weights.MANIFEST


def manifest() -> dict[str, Entry]:
    """All weights that the project knows, by name."""
    return weights.manifest(MANIFEST)


def find_weights(name: str, scale: float) -> Path:
    """The file that ``model.init_args.weights`` means.

    A path is taken as it is; a name is looked up in ``$ENLARGER_WEIGHTS``, then in the caches of
    torch and Hugging Face, then fetched from its official source, and verified by its hash.

    Args:
        name: A path (environment variables are expanded) or a name of the manifest; ``{scale}`` is
            filled in.
        scale: The scale to fill in.

    Raises:
        ConfigurationError: Neither a file nor a known name, or a known one that could not be had.
    """
    filled = os.path.expandvars(name.replace("{scale}", f"{scale:g}"))
    if "$" in filled:
        variable = filled[filled.index("$") :].split("/")[0]
        raise ConfigurationError(
            f"model.init_args.weights is {name!r}, but the environment variable {variable} is not "
            "set: "
            "set it to the folder that holds the weights"
        )
    path = Path(filled).expanduser()
    if path.is_file():
        return path
    entries = manifest()
    if filled in entries:
        return _named(filled, entries[filled])
    if path.suffix or "/" in filled:
        raise ConfigurationError(
            f"model.init_args.weights is {filled!r}, and there is no such file"
        )
    raise ConfigurationError(
        f"model.init_args.weights is {filled!r}: neither a file nor a name of configs/weights.yaml"
        f"{did_you_mean(filled, entries) or '; it has: ' + ', '.join(entries)}"
    )


def _named(name: str, entry: Entry) -> Path:
    try:
        return weights.locate(entry) or weights.fetch(entry)
    except (WrongWeightsError, UnavailableError) as error:
        raise ConfigurationError(f"model.init_args.weights is {name!r}: {error}") from error
