"""Loggers of a run: names, hyperparameters; a resumed run goes on in W&B and MLflow."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.csv_logs import CSVLogger
from lightning.pytorch import Trainer

from commands.arguments.saved_config import flat
from datamodules.shards.remote import hide_secrets
from files.json import read_json_object
from files.owned import move_aside, write_whole

log = logging.getLogger(__name__)
Scalar = bool | int | float | str
FILE = "metrics.csv"  # as Lightning's logger calls it
# Loggers that show many runs side by side: their arguments for the name and the id of a run.
NAMES = {"WandbLogger": ("name", "id"), "MLFlowLogger": ("run_name", "run_id")}
IDS = "loggers.json"  # in the run's folder: the ids, by the logger's class
# What determines the training, of the configuration.
GROUPS = ("model", "data", "degradation", "seed_everything")
EVALUATED = ("data.init_args.val", "data.init_args.test", "data.init_args.predict")  # left out
OF_TRAINER = (
    "max_steps",
    "max_epochs",
    "max_time",
    "precision",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "devices",
    "num_nodes",
)


def name_loggers(loggers: Any, name: str, ids: Mapping[str, str]) -> None:
    """Give the run's name and id to each logger of W&B and MLflow that has none.

    Args:
        loggers: ``trainer.logger`` as configured; changed in place.
        name: The run's name.
        ids: As ``kept_ids`` returns them; a logger without one begins a new run.
    """
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        kind = str(getattr(logger, "class_path", "")).rpartition(".")[2]
        arguments = getattr(logger, "init_args", {})
        for argument, value in zip(NAMES.get(kind, ()), (name, ids.get(kind)), strict=False):
            if argument in arguments and arguments[argument] is None:
                arguments[argument] = value


def keep_ids(trainer: Trainer) -> None:
    """Write the ids that W&B and MLflow gave to the run into its folder.

    Args:
        trainer: The trainer, whose loggers have begun.
    """
    loggers = trainer.loggers if trainer.is_global_zero else ()
    kinds = ((type(logger).__name__, logger) for logger in loggers)
    ids = {kind: logger.version for kind, logger in kinds if kind in NAMES}
    if ids:
        write_whole(Path(trainer.default_root_dir, IDS), json.dumps(ids) + "\n")


def kept_ids(run: Path) -> dict[str, str]:
    """Return what ``keep_ids`` wrote into a run's folder; nothing for a new run."""
    place = run / IDS
    return (read_json_object(place) or {}) if place.is_file() else {}


def keep_earlier_metrics(trainer: Trainer) -> None:
    """Rename files that Lightning's logger would delete when it writes its first line.

    With a fixed ``version`` it writes to the same folder at each start. Other loggers begin a new
    file, or append.

    Args:
        trainer: The trainer, before its loggers write.
    """
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if not isinstance(logger, CSVLogger):
            continue
        path = Path(logger.log_dir, FILE)
        if path.is_file():
            log.warning(
                "%s has the metrics of an earlier start, and %s would delete them: they are now "
                "in %s. Remove its version for a new folder at each start",
                path,
                type(logger).__name__,
                move_aside(path),
            )


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return what determines a training, by keys as typed in the short form.

    Args:
        config: The configuration of ``fit``, of plain types.

    Returns:
        Numbers and texts, such as ``model: lightning_modules.ResShift`` and
        ``data.batch_size: 16``; without what is null, the order of stages (a tuple in ``flat``),
        and data to evaluate. A list of numbers becomes a text.
    """
    groups = {name: _lists_as_groups(without_secrets(config[name])) for name in GROUPS}
    groups["trainer"] = {name: config["trainer"][name] for name in OF_TRAINER}
    values: dict[str, Scalar] = {}
    for key, value in flat(groups).items():
        if value is None or isinstance(value, tuple) or key.startswith(EVALUATED):
            continue
        names = [name for name in key.split(".") if name not in ("class_path", "init_args")]
        is_plain = isinstance(value, bool | int | float | str)
        values[".".join(names)] = value if is_plain else str(value)
    return values


def _lists_as_groups(value: Any) -> Any:
    """Return lists of classes, such as stages, as groups of their numbers."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {str(number): item for number, item in enumerate(value)}
    if isinstance(value, dict):
        return {key: _lists_as_groups(item) for key, item in value.items()}
    return value


def without_secrets(value: Any) -> Any:
    """Return a part of a configuration whose addresses have no secrets."""
    if isinstance(value, dict):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return hide_secrets(value) if isinstance(value, str) and "://" in value else value


def log_hyperparameters(trainer: Trainer, config: Mapping[str, Any]) -> None:
    """Give each logger the hyperparameters of the run.

    Args:
        trainer: The trainer, with its optimisers.
        config: As for ``hyperparameters``.
    """
    values = hyperparameters(config)
    rate = trainer.optimizers[0].defaults.get("lr")
    if isinstance(rate, int | float):  # else a tensor, which is in the configuration
        values["lr"] = rate
    for logger in trainer.loggers:
        try:
            logger.log_hyperparams(dict(values))
        except Exception as error:  # MLflow refuses others for a run that it continues
            log.warning("%s did not take the hyperparameters: %s", type(logger).__name__, error)
