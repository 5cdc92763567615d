"""Choose and load the trained weights that a command measures, uses or exports."""

from __future__ import annotations

import logging
from pathlib import Path

from jsonargparse import Namespace

from commands.checkpoint_files import list_checkpoints
from commands.errors import ConfigurationError
from commands.run_directory import RunDirectory
from commands.weights import find_weights
from lightning_modules.image_model import ImageModel

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
    given = model.weights
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
    model.load_weights(path)
    return path


def _refuse_no_file(ckpt_path: str) -> Path:
    if not Path(ckpt_path).is_file():
        raise ConfigurationError(f"ckpt_path is {ckpt_path}, and there is no such file")
    return Path(ckpt_path)


def _is_result(weights: str | None, run: RunDirectory) -> bool:
    # Weights that training started from are not its result.
    return weights is not None and weights != run.trained_config().get("model.init_args.weights")
