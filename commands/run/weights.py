"""Which weights a command uses: by path, run or name."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from callbacks import weights
from callbacks.weights import Entry, UnavailableError, WrongWeightsError
from commands.errors import ConfigurationError, did_you_mean
from commands.run.directory import RunDirectory
from commands.run.files import FOLDER, best_or_newest, list_checkpoints
from files.paths import expand_path
from lightning_modules.base import ImageModel
from lightning_modules.weights import INDEX

MANIFEST = weights.MANIFEST
EXPORT = "model.safetensors"  # in a folder of `export`


def manifest() -> dict[str, Entry]:
    """Return all weights of configs/weights.yaml, by name."""
    return weights.manifest(MANIFEST)


def find_weights(
    name: str, scale: float, key: str = "model.init_args.weights", fetches: bool = True
) -> Path:
    """Return the file of a weights argument.

    A file is itself; a folder stands for its index of weights, its ``model.safetensors`` if
    exported, or the best, else the newest, checkpoint of a run. A name is looked up in
    ``$ENLARGER_WEIGHTS``, then in the caches of torch and Hugging Face, then downloaded from its
    official source, and verified by its hash.

    Args:
        name: A path (environment variables are expanded) or a name of the manifest; ``{scale}`` is
            replaced.
        scale: The scale that replaces ``{scale}``.
        key: The argument, for messages.
        fetches: Whether to download a missing file.

    Raises:
        ConfigurationError: If it is neither a file nor a known name, or cannot be downloaded.
    """
    path = _expanded(name.replace("{scale}", f"{scale:g}"), key)
    filled = str(path)
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
                f"{key} is {filled!r}, a folder without checkpoints: name a trained run, or a file"
            )
        return trained[0]
    entries = manifest()
    if filled in entries:
        return _named(filled, entries[filled], key, fetches)
    if path.suffix or "/" in filled:
        what = "file" if path.suffix else "file or run: train it first, or name another one"
        raise ConfigurationError(f"{key} is {filled!r}, and there is no such {what}")
    raise ConfigurationError(
        f"{key} is {filled!r}: neither a file nor a name of configs/weights.yaml"
        f"{did_you_mean(filled, entries) or '; its names are: ' + ', '.join(entries)}"
    )


def _named(name: str, entry: Entry, key: str, fetches: bool) -> Path:
    try:
        if (path := weights.locate(entry)) is None and not fetches:
            raise UnavailableError(weights.missing(name))
        return path or weights.fetch(entry)
    except (WrongWeightsError, UnavailableError) as error:
        raise ConfigurationError(f"{key} is {name!r}: {error}") from error


# --------------------------------------------------------------------- before anything is built
_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".npz", ".bin")
_PATHS = ("$", "/", "~", "./", "../")
_TRAINING = ("fit", "check", "encode")
_TEXTS = ("prompt", "negative", "negative_prompt", "text")


def needed_files(config: Namespace, command: str, own: bool) -> dict[str, Path]:
    """Return the weights that a command will read, by key, before a large model is built.

    Args:
        config: Configuration of the command.
        command: Name of the command.
        own: Whether ``model.init_args.weights`` will be read.

    Raises:
        ConfigurationError: If files are missing; all of them are named.
    """
    scale = float(config.data.init_args.get("scale") or 1)
    found: dict[str, Path] = {}
    problems: dict[str, None] = {}
    # Names last: a download may take an hour, and is pointless if another file is missing.
    entries = manifest()
    texts = sorted(_texts(config.model, "model"), key=lambda text: text[1] in entries)
    for key, value, owner, own_scale in texts:
        if (key == "model.init_args.weights" and not own) or (
            key.endswith("perceptual_weights") and command not in _TRAINING
        ):
            continue
        try:
            if path := _needed(key, value, owner, own_scale or scale, not problems):
                found[key] = path
        except ConfigurationError as error:
            problems[str(error)] = None
    if problems:
        several = f"{len(problems)} things are missing:\n  " if len(problems) > 1 else ""
        raise ConfigurationError(several + "\n  ".join(problems))
    return found


def _needed(key: str, value: str, owner: str, scale: float, fetches: bool) -> Path | None:
    ours, last = owner.startswith("lightning_modules."), key.rpartition(".")[2]
    if key == "model.init_args.weights" or (ours and (last.endswith("weights") or last == "vgg16")):
        return find_weights(value, scale, key, fetches)
    if last in _TEXTS and not value.endswith(_SUFFIXES):
        return None
    _refuse_unset(key, value)
    is_path = value.endswith(_SUFFIXES) or value.startswith(_PATHS)
    if ours and is_path:  # a plug-in checks its own paths
        path = _expanded(value.replace("{scale}", f"{scale:g}"), key)
        how = "python main.py prompt writes it" if owner.endswith(".FixedPrompt") else ""
        _refuse_missing(key, path, how)
    return None


def _refuse_unset(key: str, value: str) -> None:
    if "$" in value and value.startswith(_PATHS):
        _expanded(value, key)


def _expanded(value: str, key: str) -> Path:
    try:
        return Path(expand_path(value, key))
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _refuse_missing(key: str, path: Path, make: str = "") -> None:
    if not path.exists():
        more = f"; {make}" if make else ""
        raise ConfigurationError(
            f"{key} is {str(path)!r}, and there is no such file or folder{more}"
        )


def _texts(
    value: Any, key: str, owner: str = "", scale: float | None = None
) -> Iterator[tuple[str, str, str, float | None]]:
    # Each text of a configuration, its key, the class that takes it, and that class's scale.
    if isinstance(value, Namespace | dict):
        items = dict(vars(value)) if isinstance(value, Namespace) else value
        owner, scale = str(items.get("class_path") or owner), items.get("scale") or scale
        for name, inner in items.items():
            if name != "class_path":
                yield from _texts(inner, f"{key}.{name}", owner, scale)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{key}[{number}]", owner, scale)
    elif isinstance(value, str | Path):
        yield key, str(value), owner, scale


log = logging.getLogger(__name__)


def freezes(model: ImageModel) -> bool:
    """Return whether checkpoints lack frozen parts, which are loaded from their own source."""
    return set(model.checkpoint_keys()) != set(model.state_dict())


def weights_are_read(run: RunDirectory, config: Namespace, fits: bool) -> bool:
    """Return whether a command will read ``model.init_args.weights``, before a model is built.

    Args:
        run: The run, whose checkpoints come first.
        config: Configuration of the command.
        fits: Whether the command trains, or begins as training does.

    Raises:
        ConfigurationError: If ``ckpt_path`` is not a file, or the saved configuration is damaged.
    """
    given = config.model.init_args.get("weights")
    has_checkpoints = bool(list_checkpoints(run.checkpoints))
    if fits:
        return given is not None and (config.run.overwrite or not has_checkpoints)
    if config.ckpt_path is not None:
        _refuse_no_file(config.ckpt_path)
        return False
    return given is not None and (not has_checkpoints or _is_result(given, run))


def load_trained(
    model: ImageModel, run: RunDirectory, subcommand: str, ckpt_path: str | None
) -> Path | None:
    """Load trained weights: ``ckpt_path``, else weights named for this command, else the run's.

    Args:
        model: The model; changed in place.
        run: The run, for its checkpoints.
        subcommand: Name of the command, for messages.
        ckpt_path: As typed.

    Returns:
        The file of the weights; None for a model without weights.

    Raises:
        ConfigurationError: If there are no trained weights.
    """
    given = model.initial_weights
    if given is not None and freezes(model):
        model.load_weights(find_weights(given, model.scale))
    trained = None if ckpt_path is not None or _is_result(given, run) else run.trained_weights()
    if ckpt_path is not None:
        path = _refuse_no_file(ckpt_path)
    elif trained is not None:
        path, why = trained
        log.info("%s uses %s of the run in %s", subcommand, why, run.path)
    elif given is not None:
        path = find_weights(given, model.scale)
    elif model.needs_weights:
        raise ConfigurationError(
            f"{subcommand} needs trained weights, but {run.checkpoints} has none: run fit first "
            "(with the same --config or --run.name), or name a file with "
            "--model.init_args.weights"
        )
    else:
        return None
    try:
        model.load_weights(path)
    except ValueError as error:
        settings = run.config_file
        if trained is None or not settings.is_file():
            raise
        raise ConfigurationError(
            f"{error}. The run was trained with the settings in {settings}: repeat its options, or "
            f"use --config {settings}"
        ) from error
    return path


def _refuse_no_file(ckpt_path: str) -> Path:
    if not Path(ckpt_path).is_file():
        raise ConfigurationError(f"ckpt_path is {ckpt_path}, and there is no such file")
    return Path(ckpt_path)


def _is_result(weights: str | None, run: RunDirectory) -> bool:
    # Weights that training started from are not its result.
    return weights is not None and weights != run.trained_config().get("model.init_args.weights")
