"""Weights by name: ``configs/weights.yaml`` says what a file is; here it is found or fetched."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TypedDict

import yaml

from commands.checkpoints import file_hash
from commands.errors import ConfigurationError, did_you_mean

log = logging.getLogger(__name__)

MANIFEST = Path(__file__).resolve().parents[1] / "configs" / "weights.yaml"


class Entry(TypedDict):
    """One line of the manifest."""

    file: str
    sha256: str
    licence: str
    source: str
    used_by: str


def manifest() -> dict[str, Entry]:
    """All weights that the project knows, by name."""
    entries: dict[str, Entry] = yaml.safe_load(MANIFEST.read_text())
    return entries


def find_weights(name: str, scale: float) -> Path:
    """The file that ``model.init_args.weights`` means.

    A path is taken as it is; a name is looked up in ``$ENLARGER_WEIGHTS``, then in torch's cache,
    then fetched from its official source, and verified by its hash.

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
    import torch

    cache = Path(torch.hub.get_dir()) / "checkpoints"
    folders = [Path(os.environ["ENLARGER_WEIGHTS"])] if "ENLARGER_WEIGHTS" in os.environ else []
    for folder in [*folders, cache]:
        path = folder / entry["file"]
        if path.is_file():
            if file_hash(path) != entry["sha256"]:
                raise ConfigurationError(
                    f"{path} is not the published {entry['file']} (its SHA-256 differs from "
                    "configs/weights.yaml): "
                    f"replace it by the one from {entry['source']}"
                )
            return path
    return _fetch(name, entry, cache)


def _fetch(name: str, entry: Entry, cache: Path) -> Path:
    import torch

    path = cache / entry["file"]
    log.info("fetching %s from %s (licence: %s)", entry["file"], entry["source"], entry["licence"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(entry["source"], str(path), entry["sha256"])
    except Exception as error:  # urllib, ssl, hash and disk errors alike: the file is not there
        place = os.environ.get("ENLARGER_WEIGHTS", "a folder named by $ENLARGER_WEIGHTS")
        raise ConfigurationError(
            f"the weights {name!r} are missing and could not be fetched ({error}): get "
            f"{entry['file']} from "
            f"{entry['source']} (licence: {entry['licence']}) and put it into {place}"
        ) from error
    return path
