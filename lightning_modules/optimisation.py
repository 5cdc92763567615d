"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import LBFGS, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.lr_scheduler import ReduceLROnPlateau as TorchReduceLROnPlateau

from files.class_path import class_path
from files.numbers import NonNegativeFloat, NonNegativeInt, PositiveInt
from lightning_modules.lightning_internals import measured_now

VALIDATED = "val/"  # prefix of validation metrics
NEVER = 2**62  # epochs between two steps by Lightning itself


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


def optimizer_of(make: Callable[[Any], Any], parameters: Iterable[Any]) -> Any:
    """Return an optimiser.

    Args:
        make: Factory from the configuration.
        parameters: Parameters, or groups of them.

    Raises:
        ValueError: If it is LBFGS, which asks for the gradient of one batch several times.
    """
    optimizer = make(parameters)
    if isinstance(optimizer, LBFGS):
        raise ValueError("LBFGS cannot train on batches: use torch.optim.AdamW or another")
    # A fused optimiser unscales AMP gradients itself, and Lightning then refuses to clip them.
    # With this, the scaler does it, at no measurable cost.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def schedule_of(make: Callable[[Any], Any], optimizer: Any) -> dict[str, Any]:
    """Return Lightning's configuration of a schedule that is stepped once a step.

    Lightning steps one that monitors a value once an epoch. For validation metrics
    ``step_plateaus`` does it instead, so that ``patience`` counts validations.

    Args:
        make: Factory from the configuration.
        optimizer: The optimiser.

    Raises:
        ValueError: If it monitors a value without a name.
    """
    schedule = make(optimizer)
    if not isinstance(schedule, TorchReduceLROnPlateau):
        return {"scheduler": schedule, "interval": "step"}
    monitor = getattr(schedule, "monitor", None)
    if monitor is None:
        raise ValueError(
            "model.init_args.lr_scheduler is torch's ReduceLROnPlateau, which has no monitor: use "
            "lightning.pytorch.cli.ReduceLROnPlateau with monitor"
        )
    frequency = NEVER if monitor.startswith(VALIDATED) else 1
    return {
        "scheduler": schedule,
        "monitor": monitor,
        "interval": "epoch",
        "frequency": frequency,
    }


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


class Optimised(LightningModule):
    """Optimiser and schedule of a method, stepped by the mean loss and the mean metric.

    Args:
        optimizer: Makes the optimiser of the trainable parameters.
        lr_scheduler: Makes the learning-rate schedule, stepped once a step (or once a validation
            where it monitors a validation metric); none by default.
    """

    def __init__(
        self, optimizer: OptimizerCallable = adam, lr_scheduler: LRSchedulerCallable | None = None
    ) -> None:
        super().__init__()
        self._make_optimizer, self._make_schedule = optimizer, lr_scheduler

    def optimized(self) -> Sequence[Tensor] | Sequence[dict[str, Any]]:
        """Return all trainable parameters, or groups of them with their own settings."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and the schedule that is stepped once a step.

        Raises:
            ValueError: If nothing is trainable, or the schedule monitors a value without a name.
        """
        trainable = self.optimized()
        if not trainable:
            raise ValueError(
                f"{class_path(type(self))} has no trainable parameters: use test or predict, "
                "or another model.class_path for fit"
            )
        optimizer = optimizer_of(self._make_optimizer, trainable)
        if self._make_schedule is None:
            return optimizer
        schedule = schedule_of(self._make_schedule, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Step by the mean loss, also with the fewer batches that an epoch's end leaves."""
        planned = self.trainer.accumulate_grad_batches

        def closure() -> Any:
            loss = optimizer_closure()
            average_gradients(optimizer, planned, batch_idx % planned + 1)
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Step as Lightning does, by the mean of all processes."""
        if metric is not None and not str(getattr(scheduler, "monitor", "")).startswith(VALIDATED):
            # A process has its own values of training; by these, learning rates would differ.
            metric = self.trainer.strategy.reduce(torch.as_tensor(metric), reduce_op="mean")
        super().lr_scheduler_step(scheduler, metric)

    def on_train_start(self) -> None:
        """Raise if the schedule cannot be followed. Subclasses must call super() first."""
        check_plateaus(self.trainer)

    def on_validation_start(self) -> None:
        """Stop synchronising the ranks, which may have different numbers of images."""
        self._synchronise_buffers(False)

    def on_validation_end(self) -> None:
        """Synchronise again, and step the schedules that monitor this validation."""
        self._synchronise_buffers(True)
        step_plateaus(self.trainer)

    def _synchronise_buffers(self, synchronise: bool) -> None:
        # In `fit`, validation goes through the DDP wrapper, which broadcasts the buffers before
        # every forward pass: the other ranks would wait forever for one with fewer images.
        wrapper = self.trainer.strategy.model
        if isinstance(wrapper, DistributedDataParallel):
            wrapper.require_forward_param_sync = synchronise


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
    """

    _settings: tuple[str, ...] = ("base_lrs", "warm_up", "released")

    def __init__(
        self, optimizer: Optimizer, warm_up: NonNegativeInt = 5000, released: bool = False
    ) -> None:
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
        ValueError: If the warm-up is not below ``steps``, or ``final`` above the optimiser's rate.
    """

    _settings = (*WarmUp._settings, "steps", "final")

    def __init__(
        self,
        optimizer: Optimizer,
        steps: PositiveInt,
        warm_up: NonNegativeInt = 5000,
        final: NonNegativeFloat = 2e-5,
        released: bool = False,
    ) -> None:
        if steps <= warm_up:
            raise ValueError(
                f"steps of WarmUpCosine is {steps}, and warm_up takes {warm_up} of them; expected "
                "more: set it to trainer.max_steps"
            )
        if final > (lr := min(group["lr"] for group in optimizer.param_groups)):
            raise ValueError(f"final of WarmUpCosine is {final:g}, above the optimiser's lr {lr:g}")
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
