"""Guard: skip training steps that are not finite.

A step is judged when its gradients exist and, with several processes, are averaged: by the sum of
its losses and the norm of its gradient, which are not finite if any part of them is not. Their sum
over all processes is the same on each, and so is the decision. It costs one pass over the gradients
and one all-reduce of eight bytes.

A bad step changes no weight: a fused optimiser skips its update by what the device has found, and
for all other optimisers the host waits, and removes the gradients. Lightning goes on as if the step
were good. What it has changed by then (counts, schedules, buffers) is undone when the host knows
the verdict: on a GPU at the start of the next batch, whose degradation is queued by then, so that
the device has work while the host waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from callbacks.evaluation import all_callbacks, gather, is_distributed
from files.method import method_of
from files.numbers import PositiveInt, UnitInterval

log = logging.getLogger(__name__)
LEAST = 1000  # steps: a share of fewer would be too random
WARNED = 20  # warnings; later skipped steps are only counted
SHOWN = 8  # images in a warning
FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad)


class Buffers:
    """The buffers of a model after its last good step; a forward pass changes those of its norms.

    Args:
        module: The model.
    """

    def __init__(self, module: nn.Module) -> None:
        self._places = [part._buffers for part in module.modules() if part._buffers]
        self.keep()

    def keep(self) -> None:
        """Store the buffers after a good step."""
        self._kept = [
            {name: buffer.clone() for name, buffer in place.items() if buffer is not None}
            for place in self._places
        ]

    def restore(self) -> None:
        """Restore the stored buffers."""
        for place, kept in zip(self._places, self._kept, strict=True):
            for name, value in kept.items():
                now = place[name]
                if now is not None and not torch.equal(
                    now, value
                ):  # constants may be read-only views
                    now.copy_(value)


class OpenStep:
    """A step that goes on as a good one until the host reads its verdict.

    Args:
        trainer: The trainer, before the optimiser's update.
        pl_module: The model.
        optimizer: The optimiser.
        loss: Sum of the step's losses on this process, a scalar on the device.
    """

    def __init__(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any, loss: Tensor
    ) -> None:
        self.loss, self.number = loss, trainer.global_step
        self.is_late = _skips_itself(trainer, pl_module, optimizer)
        self.counted = int(method_of(pl_module).is_step(optimizer))
        self.seeks_scale = False  # of 16-mixed: an overflow is no fault
        self._optimizer, self._is_first = optimizer, not optimizer.state
        self._loop: Any = trainer.fit_loop.epoch_loop
        self._progress = self._loop.manual_optimization.optim_step_progress
        if pl_module.automatic_optimization:
            self._progress = self._loop.automatic_optimization.optim_progress.optimizer.step
        self._ends_epoch = trainer.is_last_batch
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        changing: list[Any] = [self._loop.scheduler_progress, *schedules]
        self._states = [(part, deepcopy(part.state_dict())) for part in changing]
        self._settings = [
            {name: deepcopy(value) for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        both = _loss_and_norm(loss, optimizer)
        self._both, self._event = both, None
        if both.is_cuda:
            self._both = torch.empty(2, pin_memory=True).copy_(both, non_blocking=True)
            self._event = torch.cuda.current_stream(both.device).record_event()
        if self.is_late:
            optimizer.found_inf = both.isfinite().all().logical_not().float()

    def read(self) -> tuple[bool, bool]:
        """Return whether the loss and the gradient are finite; waits for the backward pass."""
        if self._event is not None:
            self._event.synchronize()
        loss, gradient = self._both.isfinite().tolist()
        return loss, gradient

    def undo(self) -> None:
        """Revert counts, schedules, and the state of an optimiser that had none."""
        for part, state in self._states:
            part.load_state_dict(state)
        for group, settings in zip(self._optimizer.param_groups, self._settings, strict=True):
            group.update(settings)
        if self._is_first:
            self._optimizer.state.clear()
        if self._ends_epoch:  # this was reverted, too
            self._loop.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        if self.counted:
            for count in (self._progress.total, self._progress.current):
                count.ready -= 1
                count.completed -= 1  # in manual optimisation, Lightning is about to add one


class Guard(Callback):
    """Skip steps whose loss or gradient is not finite; stop the run if there are too many.

    A skipped step changes nothing, on any process: weights, the optimiser's state, running
    statistics, EMA, schedules and the count of steps stay as they were, and ``max_steps`` counts
    only steps that were taken. It is counted as ``guard/skipped`` and logged with the keys of its
    last batch; with accumulation a step is all of its batches. Beyond a limit the run stops, on all
    processes. No checkpoint is written with weights that are not finite.

    With ``precision: 16-mixed`` the scaler still searches its scale: a gradient that overflows by
    the scale is skipped as above, but counts only once the scale is below 1.

    With manual optimisation each step through Lightning's optimiser is judged by its own gradients;
    the model itself must hold back its own schedules and counts. Steps that bypass Lightning's
    optimiser are not seen.

    On a GPU the host does not wait for the verdict with Adam, AdamW, SGD or Adagrad where
    ``fused=True``. It waits once a step, at the end of the backward pass, with other optimisers,
    ``precision: 16-mixed``, manual optimisation and sharded strategies, and at the end of the batch
    with Lightning's ``ModelCheckpoint``, which may save at once.

    Args:
        limit: Stop the run if more than this share of its steps was skipped. Below 1,000 steps
            it is this share of 1,000: at 0.01, the eleventh stops the run; at 0, the first.
        in_a_row: Stop the run if this many consecutive steps were skipped.

    Raises:
        ValueError: If the optimiser is LBFGS; a limit is passed;
            weights that are to be saved are not finite, or belong to a step that is skipped.
    """

    # Not dispatched, see `callbacks/training/progress.py`.
    on_before_zero_grad = on_after_backward = None  # type: ignore[assignment]

    def __init__(self, limit: UnitInterval = 0.01, in_a_row: PositiveInt = 10) -> None:
        super().__init__()
        self.limit, self.in_a_row = limit, in_a_row
        self.steps = 0  # of the whole run, including skipped ones
        self.skipped = 0  # of the whole run
        self.row = 0  # consecutive skipped steps at the end
        self._keys: Sequence[str] = ()  # of the current batch
        self._loss = torch.zeros(())  # of the current step
        self._buffers: Buffers | None = None
        self._open: OpenStep | None = None
        self._actions: list[Callable[[], None]] = []  # to run once its verdict is read
        self._passed = ""  # the limit

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Become the first callback: no other one may see a step whose verdict is not read."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks.remove(self)
        callbacks.insert(0, self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the count.

        Raises:
            ValueError: If the optimiser is LBFGS.
        """
        if any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in trainer.optimizers):
            raise ValueError(
                "Guard cannot leave out a step of LBFGS, which asks for several gradients in one: "
                "use another model.init_args.optimizer, or drop Guard from trainer.callbacks"
            )
        self._loss = torch.zeros((), device=trainer.strategy.root_device)
        self._buffers, self._open, self._actions, self._passed = None, None, [], ""
        self._log(trainer, trainer.global_step)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Read the last step's verdict; stop here if it passed a limit.

        Raises:
            ValueError: If a limit was passed.
        """
        if self._buffers is None:
            # Only now: the model's `on_train_start`, which comes after ours, may measure a buffer.
            self._buffers = Buffers(pl_module)
        self._close(trainer)
        if self._passed:
            raise ValueError(self._passed)
        self._keys = batch.get("key", ()) if isinstance(batch, Mapping) else ()

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Add the loss, a scalar, to those of the step."""
        if loss.dtype == torch.float16 and _scaler(trainer) is not None:
            return  # multiplied by the scale, it may exceed 65504; its gradients are checked
        self._loss = self._loss + loss.detach()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Judge the step; if it is bad, the optimiser changes nothing."""
        loss, self._loss = self._loss, torch.zeros_like(self._loss)
        step = self._open = OpenStep(trainer, pl_module, optimizer, loss)
        if not step.is_late and not all(step.read()):
            optimizer.zero_grad(set_to_none=True)
            scaler = _scaler(trainer)
            step.seeks_scale = scaler is not None and scaler.get_scale() >= 1
        if not pl_module.automatic_optimization:  # there may be another step in this batch
            self._close(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the verdict if it is known, or if the count decides what happens now."""
        at_most = trainer.max_steps
        if (
            (self._open is not None and not self._open.is_late)
            or trainer.is_last_batch
            or (at_most != -1 and trainer.global_step >= at_most)
            or any(isinstance(callback, ModelCheckpoint) for callback in all_callbacks(trainer))
        ):
            self._close(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the last step's verdict."""
        self._close(trainer)

    on_train_epoch_end = on_validation_start

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Read the last step's verdict."""
        self._close(trainer)

    def _close(self, trainer: Trainer) -> bool:
        """Read the verdict of the open step, if any; return whether the step was skipped."""
        step, self._open = self._open, None
        if step is None or self._buffers is None:
            return False
        loss_is_finite, gradient_is_finite = step.read()
        skipped = not (loss_is_finite and gradient_is_finite)
        if skipped:
            step.undo()
            self._buffers.restore()
            if not (loss_is_finite and step.seeks_scale):
                self._count(trainer, step, "gradient" if loss_is_finite else "loss")
        else:
            self.steps += step.counted
            self.row = 0 if step.counted else self.row
            self._buffers.keep()
        actions, self._actions = self._actions, []
        for action in actions:
            action()
        return skipped

    def _count(self, trainer: Trainer, step: OpenStep, what: str) -> None:
        self.steps, self.row = self.steps + step.counted, self.row + step.counted
        self.skipped += 1
        # The source of averaged gradients is unknown.
        here = trainer.is_global_zero if what == "gradient" else not bool(step.loss.isfinite())
        if here and self.skipped <= WARNED:
            log.warning(
                "left out a step after step %d (%d of %d so far): the %s is not finite "
                "(rank %d: %s)",
                *(step.number, self.skipped, self.steps, what, trainer.global_rank),
                ", ".join(self._keys[:SHOWN]) or "no keys",
            )
        if self.row >= self.in_a_row or self.skipped > self.limit * max(self.steps, LEAST):
            self._passed = (
                f"stopped after step {step.number}, whose weights are still good: {self.skipped} "
                f"of {self.steps} steps were left out, {self.row} in a row, because of their loss "
                f"or gradient (warnings above name the images), and Guard allows in_a_row "
                f"{self.in_a_row} and limit {self.limit:g} of {max(self.steps, LEAST)}; lower the "
                "learning rate, set trainer.gradient_clip_val, train in another "
                "trainer.precision, or leave these images out, and run the same command again"
            )
        self._log(trainer, step.number)

    @rank_zero_only
    def _log(self, trainer: Trainer, step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({"guard/skipped": float(self.skipped)}, step=step)

    # ----------------------------------------------------------------------------------- checkpoint

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to save weights that are not finite: a finite step may be too large.

        Raises:
            ValueError: If a weight is not finite, or a callback saves within a step that is
                skipped.
        """
        if self._close(trainer):  # its counts and schedules are in the checkpoint already
            raise ValueError(
                "a checkpoint was asked for at the end of a batch whose step Guard leaves out, so "
                "it is not saved: save it in on_train_batch_start of your callback, or drop Guard "
                "from trainer.callbacks"
            )
        trained = [_local(p.detach()) for p in pl_module.parameters() if p.requires_grad]
        finite = bool(get_total_norm(trained).isfinite())
        if _is_sharded(trainer):
            finite = all(gather(finite))
        if not finite:
            raise ValueError(
                f"the weights after step {trainer.global_step} are not finite, so they "
                "are not saved and the checkpoint before them stands: lower the learning rate or "
                "set trainer.gradient_clip_val, and run the same command again"
            )

    @property
    def state_key(self) -> str:
        """The key under which a checkpoint keeps the counts."""
        return "Guard"

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"steps": self.steps, "skipped": self.skipped, "row": self.row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self.steps, self.skipped = state_dict["steps"], state_dict["skipped"]
        self.row = state_dict["row"]


def when_judged(trainer: Trainer, action: Callable[[], None]) -> None:
    """Run an action that depends on the count of steps: now, or when the verdict is read.

    Args:
        trainer: The trainer, at the end of a batch.
        action: The action; it runs before the next batch, a validation, and the end of training.
    """
    for callback in all_callbacks(trainer):
        if isinstance(callback, Guard) and callback._open is not None:
            callback._actions.append(action)
            return
    action()


def _loss_and_norm(loss: Tensor, optimizer: Any) -> Tensor:
    # Sums over all processes of the loss and of the gradient's norm (2,).
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = get_total_norm([_local(p.grad) for p in parameters if p.grad is not None])
    both = torch.stack([loss, norm.to(loss)])
    if is_distributed():
        dist.all_reduce(both)
    return both


def _local(tensor: Tensor) -> Tensor:
    # This process's part of a sharded tensor; any other tensor as it is.
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def _is_sharded(trainer: Trainer) -> bool:
    return isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)


def _scaler(trainer: Trainer) -> Any:
    return getattr(trainer.precision_plugin, "scaler", None)


def _skips_itself(trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> bool:
    # A fused optimiser skips its update where `found_inf` is 1, as a scaler has it do.
    return (
        pl_module.automatic_optimization
        and _scaler(trainer) is None
        and not _is_sharded(trainer)
        and type(optimizer) in FUSED
        and all(group.get("fused") for group in optimizer.param_groups)
    )
