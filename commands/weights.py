"""``model.init_args.weights`` and its like: a path, a run, or a name of configs/weights.yaml."""

from __future__ import annotations

from pathlib import Path

from callbacks import weights
from callbacks.weights import Entry, UnavailableError, WrongWeightsError
from commands.checkpoint_files import FOLDER, best_or_newest
from commands.errors import ConfigurationError, did_you_mean
from files.paths import expand_path
from lightning_modules.weights import INDEX

MANIFEST = weights.MANIFEST
EXPORT = "model.safetensors"  # in a folder that `export` made


def manifest() -> dict[str, Entry]:
    """All weights that the project knows, by name."""
    return weights.manifest(MANIFEST)


def find_weights(name: str, scale: float, key: str = "model.init_args.weights") -> Path:
    """The file that an argument for weights means.

    A file is taken as it is, of a folder with an index of weights that, of an exported one its
    ``model.safetensors``, and of a run's folder the best checkpoint, else the newest; a name is
    looked up in ``$ENLARGER_WEIGHTS``, then in the caches of torch and Hugging Face, then fetched
    from its official source, and verified by its hash.

    Args:
        name: A path (environment variables are expanded) or a name of the manifest; ``{scale}`` is
            filled in.
        scale: The scale to fill in.
        key: The argument, for messages.

    Raises:
        ConfigurationError: Neither a file nor a known name, or a known one that could not be had.
    """
    try:
        filled = expand_path(name.replace("{scale}", f"{scale:g}"), key)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    path = Path(filled)
    if path.is_file():
        return path
    if path.is_dir():
        if indices := sorted(path.glob(f"*{INDEX}")):
            return indices[0]
        if (path / EXPORT).is_file():
            return path / EXPORT
        trained = best_or_newest(path / FOLDER)
        if trained is None:
            raise ConfigurationError(
                f"{key} is {filled!r}, a folder without checkpoints: name a run that was trained, "
                "or a file"
            )
        return trained[0]
    entries = manifest()
    if filled in entries:
        return _named(filled, entries[filled], key)
    if path.suffix or "/" in filled:
        what = "file" if path.suffix else "file or run: train it first, or name another one"
        raise ConfigurationError(f"{key} is {filled!r}, and there is no such {what}")
    raise ConfigurationError(
        f"{key} is {filled!r}: neither a file nor a name of configs/weights.yaml"
        f"{did_you_mean(filled, entries) or '; it has: ' + ', '.join(entries)}"
    )


def _named(name: str, entry: Entry, key: str) -> Path:
    try:
        return weights.locate(entry) or weights.fetch(entry)
    except (WrongWeightsError, UnavailableError) as error:
        raise ConfigurationError(f"{key} is {name!r}: {error}") from error
