"""Which weights a command uses: by path, run or name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from jsonargparse import Namespace

from commands.errors import ConfigurationError, did_you_mean
from commands.run.directory import RunDirectory, checkpoint_file
from commands.run.files import FOLDER
from commands.run.ranking import best_or_newest
from files.manifest import locate, manifest
from files.paths import expand_path
from files.weights import INDEX
from lightning_modules.base import ImageModel

log = logging.getLogger(__name__)

EXPORT = "model.safetensors"  # in a folder of `export`


def find_weights(name: str, scale: float, key: str = "model.init_args.weights") -> Path:
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

    Raises:
        ValueError: If it is neither a file nor a known name.
        OSError: If it cannot be downloaded.
    """
    filled = expand_path(name.replace("{scale}", f"{scale:g}"), key)
    path = Path(filled)
    if path.is_file():
        return path
    if path.is_dir():
        indices = sorted(path.glob(f"*{INDEX}"))
        if indices:
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
        return locate(filled)
    advice = did_you_mean(filled, entries) or (
        "; main.py list weights has the names, and main.py check with the same options lists all "
        "that is missing"
    )
    raise ConfigurationError(
        f"{key} is {filled!r}: neither a file, a run nor a name of configs/weights.yaml{advice}"
    )


def needed_files(config: Namespace, reads_weights: bool) -> dict[str, Path]:
    """Return the weights that the method's own arguments name, by key, before it is built.

    Args:
        config: Configuration of the command.
        reads_weights: Whether ``model.init_args.weights`` will be read.

    Raises:
        ConfigurationError: If one is missing.
    """
    scale = float(config.data.init_args.get("scale") or 1)
    is_ours = config.model.class_path.startswith("lightning_modules.")  # a plug-in may mean others
    files: dict[str, Path] = {}
    for name, value in vars(config.model.init_args).items():
        is_read = reads_weights if name == "weights" else is_ours and name.endswith("_weights")
        if is_read and isinstance(value, str):
            key = f"model.init_args.{name}"
            files[key] = find_weights(value, scale, key)
    return files


def has_frozen_parts(model: ImageModel) -> bool:
    """Return whether a model has frozen parts that its checkpoints lack: their source has them."""
    return set(model.checkpoint_keys()) != set(model.state_dict())


class Choice(NamedTuple):
    """Which weights a command loads, decided before the model is built.

    checkpoint: A checkpoint; None for those that ``model.init_args.weights`` names, if it does.
    reason: Why it is this checkpoint of the run; empty for ``ckpt_path``.
    """

    checkpoint: Path | None = None
    reason: str = ""


def choose_weights(run: RunDirectory, initial: str | None, ckpt_path: str | None) -> Choice:
    """Choose ``ckpt_path``, else weights that were named for this command, else the run's own.

    Weights that training started from are not its result.

    Args:
        run: The run.
        initial: ``model.init_args.weights``.
        ckpt_path: As typed.

    Raises:
        ConfigurationError: If ``ckpt_path`` is not a file, or the saved configuration is damaged.
    """
    if ckpt_path is not None:
        return Choice(checkpoint_file(ckpt_path))
    if initial is not None and initial != run.trained_config().get("model.init_args.weights"):
        return Choice()
    trained = best_or_newest(run.checkpoints)
    return Choice() if trained is None else Choice(*trained)


def keep_trained_scale(checkpoint: Path, config: Namespace) -> None:
    """Set the scale of the method to that of its run; the typed one is that of the outputs.

    Args:
        checkpoint: The checkpoint that is used.
        config: Configuration of ``predict``; changed in place.
    """
    run = RunDirectory(checkpoint.absolute().parent.parent)
    arguments = config.data.init_args
    trained_scale = run.trained_config().get("data.init_args.scale")
    if trained_scale in (None, arguments.scale):
        return
    arguments.output_scale = arguments.output_scale or arguments.scale
    arguments.scale = trained_scale
    config.model.init_args.scale = trained_scale
    if config.degradation is not None:
        config.degradation.init_args.scale = trained_scale


def load_trained(
    model: ImageModel, run: RunDirectory, subcommand: str, choice: Choice
) -> Path | None:
    """Load trained weights: those of the choice, else those that the model's arguments name.

    Args:
        model: The model; changed in place.
        run: The run, for messages.
        subcommand: Name of the command, for messages.
        choice: Which weights.

    Returns:
        The file of the weights; None for a model without weights.

    Raises:
        ConfigurationError: If there are no trained weights.
    """
    initial = model.initial_weights
    if initial is not None and has_frozen_parts(model):  # which checkpoints leave out
        model.load_weights(find_weights(initial, model.scale), model.weights_strict)
    if choice.reason and choice.checkpoint is not None and not choice.checkpoint.is_file():
        choice = Choice(*(best_or_newest(run.checkpoints) or ()))  # `fit` deleted it meanwhile
    path = choice.checkpoint
    if choice.reason:
        log.info("%s uses %s of the run in %s", subcommand, choice.reason, run.path)
    if path is None and initial is not None:
        path = find_weights(initial, model.scale)
    if path is None and model.needs_weights:
        raise ConfigurationError(
            f"{subcommand} needs trained weights, but {run.checkpoints} has none: run fit first "
            "(with the same --config or --run.name), or name a file with "
            "--model.init_args.weights"
        )
    if path is not None:
        model.load_weights(path)
    return path
