"""Optimisers and schedules as a configuration makes them; what they refuse names the key."""

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
    """An optimiser.

    Args:
        make: What a configuration gave.
        parameters: What it optimises, or groups of that.
        name: The model's argument that ``make`` is.

    Raises:
        ValueError: Its class refuses its arguments.
    """
    with _naming(name):
        optimizer = make(parameters)
    # A fused optimiser would undo the AMP scaler's scale by itself, and Lightning then refuses
    # to clip gradients under mixed precision. The scaler can do it, at no measurable cost.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def schedule_of(make: Callable[[Any], Any], optimizer: Any) -> dict[str, Any]:
    """Lightning's configuration of a schedule, which is stepped once a step.

    Args:
        make: What a configuration gave.
        optimizer: Whose rates it sets.

    Raises:
        ValueError: Its class refuses its arguments, or it waits for a value without a name.
    """
    with _naming(SCHEDULE):
        schedule = make(optimizer)
    if isinstance(schedule, TorchReduceLROnPlateau):
        return plateau_config(schedule)
    return {"scheduler": schedule, "interval": "step"}


def step_schedule(step: Callable[[Any, Any], None], schedule: Any, metric: Any) -> None:
    """Step a schedule; of some arguments torch's own know only then that they cannot be.

    Args:
        step: Steps it.
        schedule: It.
        metric: What it watches, or None.

    Raises:
        ValueError: It cannot be stepped.
    """
    with _naming(SCHEDULE):
        step(schedule, metric)


def check_length(trainer: Trainer) -> None:
    """See that OneCycleLR, which has so many steps and no more, lasts for the training.

    Args:
        trainer: About to train.

    Raises:
        ValueError: It would end before, with an error of torch's.
    """
    if trainer.max_epochs != -1:  # then epochs may end it first, and how long they are is unsure
        return
    for config in trainer.lr_scheduler_configs:
        schedule = config.scheduler
        if not isinstance(schedule, OneCycleLR) or config.interval != "step":
            continue
        if schedule.total_steps < trainer.max_steps:
            # A checkpoint has the length in it, whatever the configuration says by now.
            goes_on = "a run that goes on keeps its length; start another one from its weights"
            raise ValueError(
                f"model.init_args.lr_scheduler, a {type(schedule).__name__}, ends after "
                f"{schedule.total_steps} steps, and trainer.max_steps is {trainer.max_steps}: "
                + (goes_on if trainer.ckpt_path else "set its total_steps to that")
            )


@contextmanager
def _naming(name: str) -> Iterator[None]:
    # What a library raises on purpose, or divides by: what our own classes or a plug-in's raise is
    # a sentence already, and a bug of theirs keeps its traceback.
    try:
        yield
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        divided = isinstance(error, ZeroDivisionError)
        if "-packages" not in last.filename or not (divided or str(last.line).startswith("raise")):
            raise
        why = " ".join(str(error).split())
        if divided:
            why += ": one of its arguments is 0 and has to be 1 or more"
        if isinstance(error, NotImplementedError):
            why = f"{last.name} is missing: its class is abstract, name a subclass of it"
        raise ValueError(f"model.init_args.{name}: {why}") from error
