"""Name the runs of loggers that show many runs side by side by their names."""

from __future__ import annotations

from typing import Any

NAMES = {"WandbLogger": "name", "MLFlowLogger": "run_name"}  # their argument for it


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
