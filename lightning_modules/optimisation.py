"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from files.numbers import NonNegativeFloat, NonNegativeInt, PositiveInt
from files.own_modules import class_path

log = logging.getLogger(__name__)
# What a schedule's state has beside its settings: how far it has got.
POSITION = ("last_epoch", "_step_count", "_last_lr")


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
    """Make an optimiser that can be clipped under AMP, and resumed on another device.

    Args:
        make: Factory from the configuration.
        parameters: Parameters, or groups of them.
    """
    optimizer = make(parameters)
    # A fused optimiser unscales AMP gradients itself, and Lightning then refuses to clip them.
    # With this, the scaler does it, at no measurable cost.
    optimizer._step_supports_amp_scaling = False
    optimizer.register_load_state_dict_post_hook(_match_memory_layout)
    return optimizer


def _match_memory_layout(optimizer: Any) -> None:
    """Copy loaded state tensors into the memory layout of their weights."""
    # A fused optimiser reads a weight and its state in memory order. A checkpoint from a CPU may
    # have another order than the channels-last weights of a GPU.
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, Tensor) or value.shape != weight.shape:
                continue
            if value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def schedule_of(make: Callable[[Any], Any], optimizer: Any) -> dict[str, Any]:
    """Return Lightning's configuration of a schedule, which is stepped once a step.

    Only a schedule that monitors a value is stepped once an epoch.

    Args:
        make: Factory from the configuration.
        optimizer: The optimiser.

    Raises:
        ValueError: If it monitors a value of training, not of validation.
    """
    schedule = make(optimizer)
    if not isinstance(schedule, ReduceLROnPlateau):
        return {"scheduler": schedule, "interval": "step"}
    # Each rank has its own values of training, so learning rates would differ between ranks.
    if not schedule.monitor.startswith("val/"):
        raise ValueError(
            f"model.init_args.lr_scheduler monitors {schedule.monitor}: set its monitor to a value "
            "of validation, such as val/psnr"
        )
    return {"scheduler": schedule, "monitor": schedule.monitor}


def average_gradients(optimizer: Any, planned: int, summed: int) -> None:
    """Rescale gradients to those of the mean loss if an epoch ended within an accumulation.

    Args:
        optimizer: Its parameters have the gradient of a sum of losses divided by ``planned``.
        planned: Batches of a whole accumulation.
        summed: Batches of this one, fewer at the end of an epoch.
    """
    if summed == planned:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.mul_(planned / summed)


class Optimised(LightningModule):
    """Optimiser and schedule of a method, stepped by the mean loss.

    Args:
        optimizer: Makes the optimiser of the trainable parameters.
        lr_scheduler: Makes the learning-rate schedule, stepped once a step (or once an epoch
            where it monitors a validation metric); none by default.
    """

    def __init__(
        self, optimizer: OptimizerCallable = adam, lr_scheduler: LRSchedulerCallable | None = None
    ) -> None:
        super().__init__()
        self._make_optimizer = optimizer
        self._make_schedule = lr_scheduler
        self._reads_arguments = False  # whether `configure_optimizers` below was called

    def optimized(self) -> Sequence[Tensor] | Sequence[dict[str, Any]]:
        """Return all trainable parameters, or groups of them with their own settings."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and the schedule that is stepped once a step.

        Raises:
            ValueError: If nothing is trainable, or the schedule monitors a value of training.
        """
        self._reads_arguments = True
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

    def warn_of_unread(self) -> None:
        """Warn of an optimiser or a schedule that a subclass's ``configure_optimizers`` ignores."""
        if self._reads_arguments:
            return
        # Defaults are functions of the method's module; any other factory was set by the user.
        module = getattr(self._make_optimizer, "__module__", "")
        is_default = module.startswith("lightning_modules.")
        unread = {"optimizer": not is_default, "lr_scheduler": self._make_schedule is not None}
        for name, is_set in unread.items():
            if is_set:
                log.warning(
                    "model.init_args.%s has no effect: configure_optimizers of %s does not call "
                    "that of its base class",
                    name,
                    class_path(type(self)),
                )

    def train_restored(self) -> None:
        """Unfreeze on a resume what ``BaseFinetuning`` had unfrozen.

        The callback restores the optimiser's groups, but not ``requires_grad``.
        """
        trainer: Any = self.trainer
        if not any(isinstance(callback, BaseFinetuning) for callback in trainer.callbacks):
            return
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.requires_grad_(True)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Step by the mean loss, also if an epoch's end leaves fewer batches to accumulate."""
        planned = self.trainer.accumulate_grad_batches

        def closure() -> Any:
            # Computes the gradients, which a shorter accumulation needs rescaled.
            loss = optimizer_closure()
            average_gradients(optimizer, planned, batch_idx % planned + 1)
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def on_validation_start(self) -> None:
        """Stop synchronising the ranks, which may have different numbers of images."""
        self._synchronise_buffers(False)

    def on_validation_end(self) -> None:
        """Synchronise again."""
        self._synchronise_buffers(True)

    def _synchronise_buffers(self, synchronise: bool) -> None:
        """Set whether DDP broadcasts buffers before each forward pass."""
        # In `fit`, validation goes through the DDP wrapper, which broadcasts the buffers before
        # every forward pass: the other ranks would wait forever for one with fewer images.
        wrapper = self.trainer.strategy.model
        if isinstance(wrapper, DistributedDataParallel):
            wrapper.require_forward_param_sync = synchronise


class SequentialLR(torch.optim.lr_scheduler.SequentialLR):
    """torch's ``SequentialLR`` for YAML: it makes the schedules, which need the optimiser.

    Args:
        optimizer: The optimiser.
        schedulers: The schedules, one after the other.
        milestones: Steps at which the second and the later ones start.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[LRSchedulerCallable],
        milestones: list[PositiveInt],
    ) -> None:
        made: Any = [make(optimizer) for make in schedulers]  # torch takes schedules, not factories
        super().__init__(optimizer, made, milestones)


class WarmUp(LRScheduler):
    """Linear warm-up, then a constant learning rate.

    Step n, counted from 1, uses n / ``warm_up`` of the optimiser's rate. The released code of
    ResShift and InvSR sets the rate after a step: the first step uses the full rate, step n uses
    (n - 1) / ``warm_up``. A run resumed with other settings, including the optimiser's rate,
    follows them from its second step on.

    Args:
        optimizer: The optimiser.
        warm_up: Steps until the full rate is reached; 0 for no warm-up.
        released: Warm up one step late, as the released code of ResShift and InvSR does.
    """

    def __init__(
        self, optimizer: Optimizer, warm_up: NonNegativeInt = 5000, released: bool = False
    ) -> None:
        self.warm_up = warm_up
        self.released = released  # one step late, the first at the full rate: see the class
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """Return the rate of each group of parameters at this step."""
        step = self.last_epoch  # torch's name, although schedules are stepped once a step
        return [rate * self._factor_at(step, rate) for rate in self.base_lrs]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the position, but not the settings, which torch would load too.

        Args:
            state_dict: The ``state_dict`` of another schedule.
        """
        super().load_state_dict({name: state_dict[name] for name in POSITION})

    def _factor_at(self, step: int, rate: Any) -> Any:
        """Return the factor of the full ``rate`` at a step, counted from 0."""
        if step >= self.warm_up:
            return 1.0
        if self.released:  # it sets the rate after a step: the first one uses the full rate
            return step / self.warm_up if step else 1.0
        return (step + 1) / self.warm_up


class WarmUpCosine(WarmUp):
    """Linear warm-up, then half a cosine.

    Args:
        optimizer: The optimiser.
        steps: Step at which ``final`` is reached and kept; usually ``trainer.max_steps``.
        warm_up: Steps until the full rate is reached; 0 for no warm-up.
        final: The learning rate at the end.
        released: Warm up one step late, as the released code of ResShift and InvSR does; see
            ``WarmUp``.

    Raises:
        ValueError: If the warm-up is not below ``steps``.
    """

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
        self.steps = steps
        self.final = final
        super().__init__(optimizer, warm_up, released)

    def _factor_at(self, step: int, rate: Any) -> Any:
        """Return the factor of the full ``rate`` at a step, counted from 0."""
        if step < self.warm_up:
            return super()._factor_at(step, rate)
        progress = min((step - self.warm_up) / (self.steps - self.warm_up), 1.0)
        final_factor = self.final / rate  # `final` is a rate, not a factor of one
        return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * progress)) / 2
