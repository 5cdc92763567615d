"""Optimisers and schedules of a configuration, with errors that name the key."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.lr_scheduler import ReduceLROnPlateau as TorchReduceLROnPlateau

from lightning_modules.plateau import plateau_config

SCHEDULE = "lr_scheduler"


def optimizer_of(
    make: Callable[[Any], Any], parameters: Iterable[Any], name: str = "optimizer"
) -> Any:
    """Return an optimiser.

    Args:
        make: Factory from the configuration.
        parameters: Parameters, or groups of them.
        name: Name of the model's argument, for messages.

    Raises:
        ValueError: If its class refuses its arguments.
    """
    with _naming(name):
        optimizer = make(parameters)
    # A fused optimiser unscales AMP gradients itself, and Lightning then refuses to clip them.
    # With this, the scaler does it, at no measurable cost.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def schedule_of(make: Callable[[Any], Any], optimizer: Any) -> dict[str, Any]:
    """Return Lightning's configuration of a schedule that is stepped once a step.

    Args:
        make: Factory from the configuration.
        optimizer: The optimiser.

    Raises:
        ValueError: If its class refuses its arguments, or it monitors a value without a name.
    """
    with _naming(SCHEDULE):
        schedule = make(optimizer)
    if isinstance(schedule, TorchReduceLROnPlateau):
        return plateau_config(schedule)
    return {"scheduler": schedule, "interval": "step"}


def step_schedule(step: Callable[[Any, Any], None], schedule: Any, metric: Any) -> None:
    """Step a schedule; some of torch's schedules reject their arguments only then.

    Args:
        step: Lightning's ``lr_scheduler_step``.
        schedule: The schedule.
        metric: The monitored value, or None.

    Raises:
        ValueError: If the schedule cannot be stepped.
    """
    with _naming(SCHEDULE):
        step(schedule, metric)


def check_length(trainer: Trainer) -> None:
    """Raise if OneCycleLR, which has a fixed number of steps, is shorter than the training.

    Args:
        trainer: Trainer that is about to train.

    Raises:
        ValueError: If the schedule would end before the training.
    """
    if trainer.max_epochs != -1:  # epochs of unknown length may end the training first
        return
    for config in trainer.lr_scheduler_configs:
        schedule = config.scheduler
        if not isinstance(schedule, OneCycleLR) or config.interval != "step":
            continue
        if schedule.total_steps < trainer.max_steps:
            # A resumed run takes the length from its checkpoint.
            goes_on = "a resumed run keeps its length; start another run from its weights"
            raise ValueError(
                f"model.init_args.lr_scheduler, a {type(schedule).__name__}, ends after "
                f"{schedule.total_steps} steps, and trainer.max_steps is {trainer.max_steps}: "
                + (goes_on if trainer.ckpt_path else "set its total_steps to that")
            )


@contextmanager
def _naming(name: str) -> Iterator[None]:
    # Only deliberate errors and divisions by zero of libraries: errors of our own and plug-in
    # classes are clear already, and bugs keep their traceback.
    try:
        yield
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        divided = isinstance(error, ZeroDivisionError)
        if "-packages" not in last.filename or not (divided or str(last.line).startswith("raise")):
            raise
        why = " ".join(str(error).split())
        if divided:
            why += ": one of its arguments is 0 and must be 1 or more"
        if isinstance(error, NotImplementedError):
            why = f"{last.name} is missing: its class is abstract, set a subclass of it"
        raise ValueError(f"model.init_args.{name}: {why}") from error
