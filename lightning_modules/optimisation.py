"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.optim import LBFGS, Adam, AdamW, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from torch.optim.lr_scheduler import ReduceLROnPlateau as TorchReduceLROnPlateau

from lightning_modules.lightning_internals import measured_now

VALIDATED = "val/"  # prefix of validation metrics
NEVER = 2**62  # epochs between two steps by Lightning itself


def plateau_config(scheduler: Any) -> dict[str, Any]:
    """Return Lightning's configuration of a schedule that monitors a value.

    Lightning steps it once an epoch. For validation metrics ``step_plateaus`` does it instead, so
    that ``patience`` counts validations, however long an epoch is.

    Raises:
        ValueError: If the schedule has no ``monitor``.
    """
    if not isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(
            "model.init_args.lr_scheduler is torch's ReduceLROnPlateau, which has no monitor: use "
            "lightning.pytorch.cli.ReduceLROnPlateau with monitor"
        )
    validated = scheduler.monitor.startswith(VALIDATED)
    return {
        **{"scheduler": scheduler, "monitor": scheduler.monitor, "interval": "epoch"},
        "frequency": NEVER if validated else 1,
    }


def check_plateaus(trainer: Trainer) -> None:
    """Raise if a schedule monitors validation and there is none.

    Args:
        trainer: Trainer that is about to train.

    Raises:
        ValueError: If there is no validation.
    """
    for monitor in _watched(trainer):
        if not _validates(trainer):
            raise ValueError(
                f"model.init_args.lr_scheduler monitors {monitor}, but there is no validation: "
                "set data.init_args.val, or another lr_scheduler"
            )


def _validates(trainer: Trainer) -> bool:
    if trainer.val_dataloaders is None and trainer.enable_validation:
        # With `check_val_every_n_epoch`, Lightning opens them in the first epoch that validates.
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        trainer.training = True
    return sum(trainer.num_val_batches) > 0


def step_plateaus(trainer: Trainer) -> None:
    """Step the schedules that monitor a value of this validation.

    Args:
        trainer: Trainer at the end of a validation, with its logged values.

    Raises:
        ValueError: If no validation so far has logged a monitored value.
    """
    if trainer.sanity_checking or trainer.state.fn != "fit":
        return
    measured = measured_now(trainer)
    for monitor, scheduler in _watched(trainer).items():
        if monitor in measured:
            trainer.lightning_module.lr_scheduler_step(scheduler, _rankable(measured[monitor]))
        elif monitor not in trainer.callback_metrics:
            names = ", ".join(sorted(n for n in measured if n.startswith(VALIDATED)))
            raise ValueError(
                f"model.init_args.lr_scheduler monitors {monitor!r}, which this validation did "
                f"not log: set its monitor to one of {names}"
            )


def _rankable(value: Any) -> Any:
    # A value that is not finite must never count as the best: nothing could exceed infinity.
    return value if math.isfinite(value) else math.nan


def _watched(trainer: Trainer) -> dict[str, Any]:
    return {
        str(config.monitor): config.scheduler
        for config in trainer.lr_scheduler_configs
        if config.reduce_on_plateau and config.frequency == NEVER
    }


SCHEDULE = "lr_scheduler"


def adam(parameters: Iterable[Any]) -> Optimizer:
    """Adam with a learning rate of 2e-4, as most super-resolution papers use."""
    return Adam(parameters, lr=2e-4, fused=True)


def adamw(parameters: Iterable[Any], lr: float = 5e-5) -> Optimizer:
    """AdamW without weight decay; the learning rate is that of ResShift and InvSR.

    Args:
        parameters: Parameters, or groups of them.
        lr: Learning rate.
    """
    return AdamW(parameters, lr=lr, weight_decay=0.0, fused=True)


UNUSABLE = {
    LBFGS: "asks for the gradient of one batch several times in a step",
    SparseAdam: "takes only sparse gradients, which no network here has",
}


def optimizer_of(
    make: Callable[[Any], Any], parameters: Iterable[Any], name: str = "optimizer"
) -> Any:
    """Return an optimiser.

    Args:
        make: Factory from the configuration.
        parameters: Parameters, or groups of them.
        name: Name of the model's argument, for messages.

    Raises:
        ValueError: If its class refuses its arguments, or cannot train a method.
    """
    with _naming(name):
        optimizer = make(parameters)
    for kind, why in UNUSABLE.items():
        if isinstance(optimizer, kind):
            raise ValueError(
                f"model.init_args.{name} is {type(optimizer).__name__}, which {why}: use another, "
                "such as torch.optim.AdamW"
            )
    # A fused optimiser unscales AMP gradients itself, and Lightning then refuses to clip them.
    # With this, the scaler does it, at no measurable cost.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def with_modes(trainer: Trainer) -> list[Any]:
    """Return the optimisers with ``train()`` and ``eval()``, such as schedule-free ones.

    Their parameters are those to train in one mode, and those to evaluate in the other.

    Raises:
        ValueError: If the strategy splits parameters.
    """
    found = [o for o in trainer.optimizers if all(hasattr(o, mode) for mode in ("train", "eval"))]
    if found and isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
        raise ValueError(
            f"model.init_args.optimizer is {type(found[0]).__name__}, whose weights for evaluation "
            "must be whole on each device: set trainer.strategy to ddp"
        )
    return found


@torch.no_grad()
def evaluation_weights(trainer: Trainer) -> list[tuple[Tensor, Tensor]]:
    """Return each parameter of such optimisers, and its weights for evaluation.

    Parameters and optimisers are left in the mode for training, and bit for bit as they were, which
    ``eval()`` and ``train()`` alone would not: they round.

    Args:
        trainer: The trainer, while it trains.
    """
    found: list[tuple[Tensor, Tensor]] = []
    for optimizer in with_modes(trainer):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        trained = [p.detach().clone() for p in parameters]
        optimizer.eval()
        found += [(p, p.detach().clone()) for p in parameters]
        optimizer.train()
        for parameter, before in zip(parameters, trained, strict=True):
            parameter.copy_(before)
    return found


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


def average_gradients(optimizer: Any, planned: int, summed: int) -> None:
    """Make gradients those of the mean loss where an epoch ended within an accumulation.

    Args:
        optimizer: Its parameters have the gradient of a sum of losses divided by ``planned``.
        planned: Batches of a whole accumulation.
        summed: Batches of this one.
    """
    if summed == planned:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.mul_(planned / summed)


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


class WarmUp(LambdaLR):
    """Linear warm-up, then a constant learning rate.

    Step n, counted from 1, uses n / ``warm_up`` of the optimiser's rate. The released code of
    ResShift and InvSR sets the rate after a step: the first step uses the full rate, step n uses
    (n - 1) / ``warm_up``. A run resumed with other settings, including the optimiser's rate,
    follows them from its second step on.

    Args:
        optimizer: The optimiser.
        warm_up: Steps until the full rate is reached; 0 for no warm-up.
        released: Warm up as in the released code of ResShift and InvSR.

    Raises:
        ValueError: If ``warm_up`` is negative.
    """

    _settings: tuple[str, ...] = ("base_lrs", "warm_up", "released")

    def __init__(self, optimizer: Optimizer, warm_up: int = 5000, released: bool = False) -> None:
        if warm_up < 0:
            raise ValueError(f"warm_up of {type(self).__name__} is {warm_up}; expected 0 or more")
        self.warm_up, self.released = warm_up, released
        super().__init__(optimizer, [self._of(g["lr"]) for g in optimizer.param_groups])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the position, but keep the settings of this schedule; torch would load them too.

        Args:
            state_dict: The ``state_dict`` of another schedule.
        """
        own = {name: self.__dict__[name] for name in self._settings}
        super().load_state_dict({**state_dict, **own, "lr_lambdas": [None] * len(self.lr_lambdas)})

    def _of(self, rate: float) -> _Factor:
        return _Factor(self.warm_up, self.released)


class WarmUpCosine(WarmUp):
    """Linear warm-up, then half a cosine.

    Args:
        optimizer: The optimiser.
        steps: Step at which ``final`` is reached and kept; usually ``trainer.max_steps``.
        warm_up: Steps until the full rate is reached; 0 for no warm-up.
        final: The learning rate at the end.
        released: Warm up as in the released code of ResShift and InvSR; see ``WarmUp``.

    Raises:
        ValueError: If the warm-up is negative or not below ``steps``, or ``final`` is below 0 or
            above the optimiser's rate.
    """

    _settings = (*WarmUp._settings, "steps", "final")

    def __init__(
        self,
        optimizer: Optimizer,
        steps: int,
        warm_up: int = 5000,
        final: float = 2e-5,
        released: bool = False,
    ) -> None:
        if steps <= warm_up:
            raise ValueError(
                f"steps of WarmUpCosine is {steps}, and warm_up takes {warm_up} of them; expected "
                "more: set it to trainer.max_steps"
            )
        for group in optimizer.param_groups:
            if not 0 <= final <= group["lr"]:
                raise ValueError(
                    f"final of WarmUpCosine is {final:g}; expected 0 up to the optimiser's lr "
                    f"{group['lr']:g}"
                )
        self.steps, self.final = steps, final
        super().__init__(optimizer, warm_up, released)

    def _of(self, rate: float) -> _Factor:
        return _Factor(self.warm_up, self.released, self.steps, self.final / rate)


class _Factor:
    """Factor of the learning rate at a step, counted from 0."""

    def __init__(
        self, warm_up: int, released: bool, steps: int | None = None, final: float = 1.0
    ) -> None:
        self.warm_up, self.released, self.steps, self.final = warm_up, released, steps, final

    def __call__(self, step: int) -> float:
        if step < self.warm_up:
            if self.released:
                return step / self.warm_up if step else 1.0
            return (step + 1) / self.warm_up
        if self.steps is None:
            return 1.0
        done = min((step - self.warm_up) / (self.steps - self.warm_up), 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2
