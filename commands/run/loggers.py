"""Loggers of a run: they get its name, and delete no metrics of an earlier start."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.csv_logs import CSVLogger
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Trainer

from commands.errors import ConfigurationError
from files.owned import move_aside

log = logging.getLogger(__name__)
FILE = "metrics.csv"  # as Lightning's logger calls it
# Loggers that show many runs side by side by their names, with their argument for it.
NAMES = {"WandbLogger": "name", "MLFlowLogger": "run_name"}


def name_loggers(given: Any, name: str) -> None:
    """Give the run's name to each logger of W&B and MLflow that has none.

    Args:
        given: ``trainer.logger`` as configured; changed in place.
        name: The run's name.
    """
    for logger in given if isinstance(given, list) else [given]:
        kind = str(getattr(logger, "class_path", "")).rpartition(".")[2]
        arguments = getattr(logger, "init_args", {})
        if kind in NAMES and NAMES[kind] in arguments and arguments[NAMES[kind]] is None:
            arguments[NAMES[kind]] = name


def keep_earlier_metrics(trainer: Trainer) -> None:
    """Rename files that Lightning's logger would delete when it writes its first line.

    With a fixed ``version`` it writes to the same folder at each start. Other loggers begin a new
    file, or append.

    Args:
        trainer: The trainer, before its loggers write.

    Raises:
        ConfigurationError: If the file is not on a local disk.
    """
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if not isinstance(logger, CSVLogger):
            continue
        folder = logger.log_dir
        if "://" not in folder:
            path = Path(folder, FILE)
            if path.is_file():
                log.warning(
                    "%s has the metrics of an earlier start, and %s would delete them: they are "
                    "now in %s. Remove its version for a new folder at each start",
                    *(path, type(logger).__name__, move_aside(path)),
                )
        elif get_filesystem(folder).isfile(f"{folder}/{FILE}"):
            raise ConfigurationError(
                f"{folder}/{FILE} has the metrics of an earlier start, and "
                f"{type(logger).__name__} would delete them: remove its version, or set another"
            )
