"""Guard: skip training steps that are not finite.

A step is judged when its gradients exist and, with several processes, are averaged: by the sum of
its losses and the squared norm of the gradient, which are not finite if any part of them is not.
Their sum over all processes is the same on each, and so is the decision. It costs one pass over the
gradients and one all-reduce of eight bytes.

The device judges, and a fused optimiser skips its own update by that. The host goes on as if the
step were good, and reads the verdict when the next batch is on the device: by then the optimiser's
step and the next batch's degradation are queued, so the device has work while the host reads. If
the step was bad, what the host changed in between is undone: counts, schedules and buffers.

All other steps are judged by the host before the optimiser's step, once a step. They are skipped by
removing the gradients: no optimiser changes a parameter without one.

Either way the run continues as if the batch had not existed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from callbacks.evaluation import (
    all_callbacks,
    check_at_least,
    gather,
    is_distributed,
)
from files.method import method_of


class Loss(NamedTuple):
    """A scalar on the device, and its images."""

    keys: Sequence[str]
    value: Tensor


class Statistics:
    """The buffers of a model after its last good step; a forward pass changes those of its norms.

    Args:
        module: The model.
    """

    def __init__(self, module: nn.Module) -> None:
        parts = [part._buffers for part in module.modules()]
        self._places = [(buffers, name) for buffers in parts for name in buffers]
        self._kept: list[Tensor | None] = []
        self.keep()

    def keep(self) -> None:
        """Store the buffers after a good step."""
        now = [buffers.get(name) for buffers, name in self._places]
        if len(self._kept) < len(now) or not all(map(_alike, self._kept, now)):
            self._kept = [None if buffer is None else buffer.detach().clone() for buffer in now]
            return
        kept, there = ([b for b in buffers if b is not None] for buffers in (self._kept, now))
        if kept:
            torch._foreach_copy_(kept, there)

    def restore(self) -> None:
        """Restore the stored buffers."""
        for (buffers, name), kept in zip(self._places, self._kept, strict=True):
            now = buffers.get(name)
            if not _alike(now, kept):
                buffers[name] = None if kept is None else kept.clone()
            elif now is not None and kept is not None and not torch.equal(now, kept):
                now.copy_(kept)  # constants are not written: they may be read-only views


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    # A buffer may appear, disappear, or change its size.
    if one is None or other is None:
        return one is other
    return one.shape == other.shape


def reduce_loss_and_square(losses: list[Loss], optimizer: Any, trainer: Trainer) -> Tensor:
    """Return the sum of a step's losses and of its squared gradient, over all processes (2,)."""
    device = trainer.strategy.root_device
    gradients = [
        local_part(parameter.grad)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    norm = get_total_norm(gradients).to(device, torch.float32)
    values = [loss.value.to(device, torch.float32) for loss in losses]
    loss = torch.stack(values).sum() if values else torch.zeros_like(norm)
    both = torch.stack([loss, norm.square()])
    if is_distributed():
        dist.all_reduce(both)
    return both


def copies(trainer: Trainer) -> int:
    """Return how many processes have the whole gradient, and so add its square."""
    return 1 if is_sharded(trainer) else trainer.world_size


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor; any other tensor as it is."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def is_sharded(trainer: Trainer) -> bool:
    """Return whether each process holds a part of the parameters only."""
    return isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)


class OpenStep:
    """A step that the device skips if it is bad, before the host has read which it is.

    Args:
        trainer: The trainer, before the optimiser's step.
        optimizer: A fused optimiser.
        both: Sum of the losses and of the squared gradient (2,), on the device.
        bad: Whether the step must be skipped, a scalar on the device.
        losses: The losses, for the warning.
        step: Steps taken before this one.
    """

    def __init__(
        self,
        trainer: Trainer,
        optimizer: Any,
        both: Tensor,
        bad: Tensor,
        losses: list[Loss],
        step: int,
    ) -> None:
        self.losses, self.step = losses, step
        self._both, self._event = both, None
        if both.device.type == "cuda":
            self._both = torch.empty(2, pin_memory=True).copy_(both, non_blocking=True)
            self._event = torch.cuda.current_stream(both.device).record_event()
        loop: Any = trainer.fit_loop.epoch_loop
        progress = loop.automatic_optimization.optim_progress.optimizer.step
        self._counts = [
            (count, count.ready - 1, count.completed)  # Lightning has begun to count this step
            for count in (progress.total, progress.current)
        ]
        self._scheduler_progress = loop.scheduler_progress
        self._scheduled = deepcopy(loop.scheduler_progress.state_dict())
        self._schedules = [
            (config.scheduler, deepcopy(config.scheduler.state_dict()))
            for config in trainer.lr_scheduler_configs
            if config.interval == "step"
        ]
        self._optimizer = optimizer
        groups = optimizer.param_groups
        self._groups = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        self._new = [p for group in groups for p in group["params"] if p not in optimizer.state]
        optimizer.grad_scale, optimizer.found_inf = None, bad.float()

    def close(self) -> tuple[float, float]:
        """Return the loss and the squared gradient; the optimiser's next step is its own again."""
        if self._event is not None:
            self._event.synchronize()
        del self._optimizer.grad_scale, self._optimizer.found_inf
        loss, square = self._both.tolist()
        return loss, square

    def undo(self) -> None:
        """Revert counts, schedules, and the optimiser's state of parameters that had none."""
        for count, ready, completed in self._counts:
            count.ready, count.completed = ready, completed
        self._scheduler_progress.load_state_dict(self._scheduled)
        for schedule, state in self._schedules:
            schedule.load_state_dict(state)
        for group, values in zip(self._optimizer.param_groups, self._groups, strict=True):
            group.update(values)
        for parameter in self._new:
            self._optimizer.state.pop(parameter, None)


log = logging.getLogger(__name__)
FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad)
LEAST = 1000  # steps: a share of fewer would be too random
WARNED, RARE = 20, 1000  # this many warnings, then one in this many
SHOWN = 8  # images in a warning
LEARNT = 100  # steps before norms are compared; also the length of their running mean
UNSEEN = 1000  # backward passes without a step: the steps must be taken elsewhere
HELD = "held"  # interval of a schedule that pauses in this batch


class Guard(Callback):
    """Skip steps whose loss or gradient is not finite; stop the run if there are too many.

    A skipped step changes nothing, on any process: weights, the optimiser's state, running
    statistics, EMA, schedules and the count of steps stay as they were, and ``max_steps`` counts
    only steps that were taken. It is counted as ``guard/skipped`` and logged with the images of the
    process that had it; with accumulation a step is all of its batches. Beyond a limit the run
    stops, on all processes. No checkpoint is written with weights that are not finite.

    With ``precision: 16-mixed`` the scaler still searches its scale: a gradient that overflows by
    the scale is skipped as above, but counts only once the scale is below 1.

    With manual optimisation each step through Lightning's optimiser is judged by its own gradients;
    the model itself must hold back its own schedules and counts, and steps that bypass Lightning's
    optimiser cannot be seen, which a warning reports.

    On a GPU the host does not wait for the verdict with Adam, AdamW, SGD or Adagrad where
    ``fused=True``. It waits once a step, at the end of the backward pass, with other optimisers, a
    learning rate that is a tensor, ``precision: 16-mixed``, manual optimisation, sharded
    strategies, and Lightning's ``ModelCheckpoint``, which may save at once.

    Args:
        limit: Stop the run if more than this share of its steps was skipped. Below 1,000 steps
            it is this share of 1,000: at 0.01, the eleventh stops the run; at 0, the first.
        in_a_row: Stop the run if this many consecutive steps were skipped.
        norm_factor: Also skip a step whose gradient has a norm of more than this many times the
            mean of about the last 100 steps; by default all finite norms are accepted.

    Raises:
        ValueError: If an argument is out of its range; the strategy or the optimiser cannot be
            guarded; a limit is passed; weights that are to be saved are not finite, or belong to a
            step that must be skipped.
    """

    # Not dispatched, see `callbacks/training/progress.py`.
    on_before_zero_grad = on_after_backward = on_train_batch_end = None  # type: ignore[assignment]

    def __init__(
        self, limit: float = 0.01, in_a_row: int = 10, norm_factor: float | None = None
    ) -> None:
        super().__init__()
        if not 0 <= limit <= 1:
            raise ValueError(f"`limit` of Guard is {limit}; expected a share in [0, 1]")
        check_at_least(self, 1, in_a_row=in_a_row)
        if norm_factor is not None and not norm_factor > 1:
            raise ValueError(f"`norm_factor` of Guard is {norm_factor}; it must be more than 1")
        self.limit, self.in_a_row, self.norm_factor = limit, in_a_row, norm_factor
        self.steps = 0  # of the whole run, including skipped ones
        self.skipped = 0  # of the whole run
        self.row = 0  # consecutive skipped steps at the end
        self.norm = 0.0  # mean of the gradient's norm over the steps taken
        self._keys: Sequence[str] = ()  # of the current batch
        self._losses: list[Loss] = []  # of the current step
        self._statistics = Statistics(nn.Module())
        self._begins = True  # no batch of this training has begun
        self._held: list[Any] = []  # schedules
        self._verdict = ""
        self._open: OpenStep | None = None  # the last step, until its verdict is read
        self._actions: list[Callable[[], None]] = []  # to run then

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Become the first callback: no other one may see a step whose verdict is not read."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks.remove(self)
        callbacks.insert(0, self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the count."""
        _check_guardable(trainer, self.norm_factor)
        self._losses, self._held, self._verdict = [], [], ""
        self._open, self._actions = None, []
        self._begins = True
        self._log(trainer, trainer.global_step)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Read the last step's verdict; stop here if it passed a limit.

        Raises:
            ValueError: If a limit was passed.
        """
        if self._begins:
            # Only now: the model's `on_train_start`, which comes after ours, may measure a buffer.
            self._statistics, self._begins = Statistics(pl_module), False
        self._close(trainer)
        for schedule in self._held:
            schedule.interval = "step"
        self._held.clear()
        if self._verdict:
            raise ValueError(self._verdict)
        self._keys = batch.get("key", ()) if isinstance(batch, Mapping) else ()

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Keep the loss, a scalar, for later."""
        if loss.dtype == torch.float16 and _scaler(trainer) is not None:
            return  # multiplied by the scale, it may exceed 65504; its gradients are checked
        if len(self._losses) >= UNSEEN and not pl_module.automatic_optimization:
            return
        self._losses.append(Loss(self._keys, loss.detach()))
        if len(self._losses) == UNSEEN and not pl_module.automatic_optimization:
            log.warning(
                "Guard has seen %d backward passes and no step: step with Lightning's optimiser, "
                "self.optimizers(), or steps that are not finite are not left out",
                UNSEEN,
            )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Judge the step, and skip it if necessary."""
        losses, self._losses = self._losses, []
        both = reduce_loss_and_square(losses, optimizer, trainer)
        step = trainer.global_step
        if _skips_itself(trainer, pl_module, optimizer) and not _read_at_once(trainer):
            bad = self._is_bad(both, copies(trainer))
            self._open = OpenStep(trainer, optimizer, both, bad, losses, step)
            return
        loss, square = both.tolist()  # the host waits here
        norm = math.sqrt(square / copies(trainer))
        wrong = self._why_skip(loss, norm)
        if not wrong:
            if method_of(pl_module).is_step(optimizer):
                self._accept(norm)
            else:
                self._statistics.keep()
            return
        self._leave_out(trainer, pl_module, optimizer)
        if math.isfinite(loss) and not math.isfinite(norm) and _seeks_its_scale(trainer):
            self._statistics.keep()  # the forward pass was finite
            return
        counted = int(method_of(pl_module).is_step(optimizer))
        self._skip(trainer, step, wrong, losses, everywhere=math.isfinite(loss), counted=counted)

    # ----------------------------------------------------------------- a verdict that is read late

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the last step's verdict."""
        self._close(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the last step's verdict."""
        self._close(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Read the last step's verdict."""
        self._close(trainer)

    def _close(self, trainer: Trainer) -> bool:
        """Read the last step's verdict, if it is open; return whether the step was skipped."""
        step, self._open = self._open, None
        if step is None:
            return False
        loss, square = step.close()
        norm = math.sqrt(square / copies(trainer))
        wrong = self._why_skip(loss, norm)
        if wrong:
            step.undo()
            self._skip(trainer, step.step, wrong, step.losses, everywhere=math.isfinite(loss))
        else:
            self._accept(norm)
        actions, self._actions = self._actions, []
        for action in actions:
            action()
        return bool(wrong)

    def _is_bad(self, both: Tensor, copies: int) -> Tensor:
        # As `_why_skip`, on the device and with the same rounding.
        bad = both.isfinite().all().logical_not()
        if (most := self._largest_norm()) is not None:
            bad = bad | ((both[1].double() / copies).sqrt() > most)
        return bad

    # ------------------------------------------------------------------------------ taken, left out

    def _largest_norm(self) -> float | None:
        """Return the largest norm that is accepted; None for any."""
        learnt = self.norm_factor is not None and self.steps - self.skipped >= LEARNT
        return (self.norm_factor or 1.0) * self.norm if learnt else None

    def _why_skip(self, loss: float, norm: float) -> str:
        if not math.isfinite(loss):
            return "the loss is not finite"
        if not math.isfinite(norm):
            return "the gradient is not finite"
        if (most := self._largest_norm()) is not None and norm > most:
            return f"the gradient's norm is {norm:.3g}, its mean {self.norm:.3g}"
        return ""

    def _skip(
        self,
        trainer: Trainer,
        step: int,
        wrong: str,
        losses: list[Loss],
        everywhere: bool,
        counted: int = 1,
    ) -> None:
        self._statistics.restore()
        self.steps, self.skipped = self.steps + counted, self.skipped + 1
        self.row += counted
        self._warn(trainer, step, wrong, losses, everywhere)
        self._verdict = self._why_stop(step)
        self._log(trainer, step)

    def _accept(self, norm: float) -> None:
        self.steps, self.row = self.steps + 1, 0
        if self.norm_factor is not None:
            self.norm += (norm - self.norm) / min(self.steps - self.skipped, LEARNT)
        self._statistics.keep()

    def _leave_out(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        loop = trainer.fit_loop.epoch_loop
        if pl_module.automatic_optimization:
            progress: Any = loop.automatic_optimization.optim_progress.optimizer.step
        else:
            progress = loop.manual_optimization.optim_step_progress
        if method_of(pl_module).is_step(optimizer):
            for count in (progress.total, progress.current):
                count.ready -= 1
                count.completed -= 1  # Lightning is about to add one
        for schedule in trainer.lr_scheduler_configs:
            if schedule.interval == "step":
                schedule.interval = HELD
                self._held.append(schedule)

    def _warn(
        self, trainer: Trainer, step: int, wrong: str, losses: list[Loss], everywhere: bool
    ) -> None:
        if everywhere:  # the source of averaged gradients is unknown
            seen = losses if trainer.is_global_zero else []
        else:
            seen = [loss for loss in losses if not bool(loss.value.isfinite())]
        if not seen or (self.skipped > WARNED and self.skipped % RARE):
            return
        keys = list(dict.fromkeys(key for loss in seen for key in loss.keys))
        shown = ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
        log.warning(
            "left out a step after step %d (%d of %d so far): %s (rank %d%s: %s)",
            *(step, self.skipped, self.steps, wrong, trainer.global_rank),
            *(" and others" if everywhere and trainer.world_size > 1 else "", shown or "no keys"),
        )

    def _why_stop(self, step: int) -> str:
        """Return why the run must stop; empty if it need not."""
        if self.row >= self.in_a_row:
            passed = f"{self.row} steps in a row were left out, as many as `in_a_row` of Guard"
        elif self.skipped > self.limit * max(self.steps, LEAST):
            passed = (
                f"{self.skipped} of {self.steps} steps were left out, more than `limit` of Guard, "
                f"{self.limit:g} of {max(self.steps, LEAST)}"
            )
        else:
            return ""
        return (
            f"stopped after step {step}, whose weights are still good: {passed}, because of their "
            "loss or gradient (warnings above name the images); lower the learning rate, set "
            "trainer.gradient_clip_val, train in another trainer.precision, or leave these "
            "images out, and run the same command again"
        )

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
        trained = [local_part(p.detach()) for p in pl_module.parameters() if p.requires_grad]
        finite = math.isfinite(float(get_total_norm(trained)))
        if is_sharded(trainer):
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
        """Return the counts and the mean norm."""
        return {"steps": self.steps, "skipped": self.skipped, "row": self.row, "norm": self.norm}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self.steps, self.skipped = state_dict["steps"], state_dict["skipped"]
        self.row, self.norm = state_dict["row"], state_dict["norm"]


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


def _skips_itself(trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> bool:
    # A fused optimiser skips its update where `found_inf` is 1, as a scaler has it do.
    return (
        pl_module.automatic_optimization
        and _scaler(trainer) is None
        and not is_sharded(trainer)
        and type(optimizer) in FUSED
        and trainer.strategy.root_device.type in ("cpu", "cuda")  # others have no float64
        and all(g.get("fused") and not isinstance(g["lr"], Tensor) for g in optimizer.param_groups)
    )


def _read_at_once(trainer: Trainer) -> bool:
    # Where the count of steps decides what happens at the end of this batch.
    most = trainer.max_steps
    return (
        trainer.is_last_batch
        or trainer.should_stop
        or (most != -1 and trainer.global_step + 1 >= most)
        or any(isinstance(callback, ModelCheckpoint) for callback in all_callbacks(trainer))
    )


def _scaler(trainer: Trainer) -> Any:
    return getattr(trainer.precision_plugin, "scaler", None)


def _seeks_its_scale(trainer: Trainer) -> bool:
    scaler = _scaler(trainer)
    return scaler is not None and scaler.get_scale() >= 1


def _check_guardable(trainer: Trainer, norm_factor: float | None) -> None:
    if isinstance(trainer.strategy, DeepSpeedStrategy):
        raise ValueError(
            "Guard cannot leave out a step of DeepSpeed, which takes it by itself: use "
            "trainer.strategy ddp or fsdp, or drop Guard from trainer.callbacks"
        )
    if any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in trainer.optimizers):
        raise ValueError(
            "Guard cannot leave out a step of LBFGS, which asks for several gradients in one: use "
            "another model.init_args.optimizer, or drop Guard from trainer.callbacks"
        )
    if norm_factor is not None and len(trainer.optimizers) > 1:
        raise ValueError(
            f"`norm_factor` of Guard is {norm_factor}, and the model has {len(trainer.optimizers)} "
            "optimisers, whose gradients have norms of their own: leave it unset"
        )
