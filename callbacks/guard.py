"""Steps whose loss or gradient is not finite are left out, by all processes together.

A step is judged when its gradients are there and, with several processes, averaged: from the sum of
its losses and the square of the gradient's norm, two numbers that are not finite if any part of
them is not. Their sum over all processes is the same on each, and so is the verdict. That costs one
pass over the gradients, one all-reduce of eight bytes, and the host waits for the device once a
step, at the end of the backward pass: what comes next in the queue, the optimiser, is short.

A step is left out by taking its gradients away: no optimiser touches a parameter without one. What
else a step would have moved is put back, so that the run goes on as if there had been no such
batch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from callbacks.evaluation import steps_done
from callbacks.guard_step import Loss, Statistics, is_sharded, measured, part_here
from callbacks.processes import gather

log = logging.getLogger(__name__)

LEAST = 1000  # steps: a share of fewer would be a matter of luck
TOLD, RARE = 20, 1000  # so many warnings, then one in so many
SHOWN = 8  # pictures in a warning
LEARNT = 100  # steps before norms are compared; their mean looks back as far
UNSEEN = 1000  # backward passes without a step, after which steps must be taken elsewhere
HELD = "held"  # interval of a schedule that does not move in this batch


class Guard(Callback):
    """Leave out a step whose loss or gradient is not finite; stop a run that cannot go on so.

    A step that is left out changes nothing, on any process: weights, the optimiser's state, running
    statistics, EMA, schedules and the count of steps stay as they were, and ``max_steps`` counts
    those that were taken. It is counted as ``guard/skipped`` and logged with the pictures of the
    process that saw it; under accumulation the step is all of its batches. Past a limit the run
    stops, on all processes. No checkpoint is written with weights that are not finite.

    With ``precision: 16-mixed`` the scaler still looks for its scale: a gradient that overflows by
    that is left out as above, but counts only once the scale is below 1.

    With manual optimisation each step through Lightning's optimiser is judged by its own gradients;
    schedules and counts that the model keeps itself it has to hold back itself, and steps that go
    round Lightning's optimiser are not seen, of which a warning says so.

    Args:
        limit: Stop the run when more than this share of its steps was left out. Below 1,000 steps
            it is this share of 1,000: at 0.01, the eleventh stops the run; at 0, the first.
        in_a_row: Stop the run when so many steps in succession were left out.
        norm_factor: Also leave out a step whose gradient has a norm of more than this many times
            the mean of the last 100 steps or so; by default finite norms are all welcome.

    Raises:
        ValueError: An argument is out of its range; the strategy or the optimiser cannot be
            guarded; a limit is passed; weights that are to be saved are not finite.
    """

    # Not dispatched, see `callbacks/progress.py`.
    on_before_zero_grad = on_after_backward = on_train_batch_end = None  # type: ignore[assignment]

    def __init__(
        self, limit: float = 0.01, in_a_row: int = 10, norm_factor: float | None = None
    ) -> None:
        super().__init__()
        if not 0 <= limit <= 1:
            raise ValueError(f"`limit` of Guard is {limit}; expected a share in [0, 1]")
        if in_a_row < 1:
            raise ValueError(f"`in_a_row` of Guard is {in_a_row}; it must be at least 1")
        if norm_factor is not None and not norm_factor > 1:
            raise ValueError(f"`norm_factor` of Guard is {norm_factor}; it must be more than 1")
        self.limit, self.in_a_row, self.norm_factor = limit, in_a_row, norm_factor
        self.steps = 0  # of the whole run, with those that were left out
        self.skipped = 0  # those
        self.row = 0  # how many of them came last, one after the other
        self.norm = 0.0  # mean of the gradient's norm in the steps that were taken
        self._keys: Sequence[str] = ()  # of the batch at hand
        self._losses: list[Loss] = []  # of the step at hand
        self._statistics = Statistics(nn.Module())
        self._held: list[Any] = []  # schedules
        self._verdict = ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the running statistics as they are."""
        _check_guardable(trainer, self.norm_factor)
        self._losses, self._held, self._verdict = [], [], ""
        self._statistics = Statistics(pl_module)
        self._log(trainer, steps_done(trainer, pl_module))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop here, where all of the step before is done, if a limit was passed in it.

        Raises:
            ValueError: It was.
        """
        for schedule in self._held:
            schedule.interval = "step"
        self._held.clear()
        if self._verdict:
            raise ValueError(self._verdict)
        self._keys = batch.get("key", ()) if isinstance(batch, Mapping) else ()

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Keep the loss; nothing looks at it yet."""
        if loss.dtype == torch.float16 and _scaler(trainer) is not None:
            return  # multiplied by the scale, it may be beyond 65504; its gradients will tell
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
        """Judge the step, and leave it out if it must not be taken."""
        losses, self._losses = self._losses, []
        loss, norm = measured(losses, optimizer, trainer)
        wrong = self._wrong(loss, norm)
        if not wrong:
            if _counts(pl_module, optimizer):
                self._taken(norm)
            else:
                self._statistics.keep()
            return
        step = steps_done(trainer, pl_module)
        self._leave_out(trainer, pl_module, optimizer)
        if math.isfinite(loss) and not math.isfinite(norm) and _seeks_its_scale(trainer):
            self._statistics.keep()  # the forward pass was sound
            return
        self._statistics.restore()
        counted = int(_counts(pl_module, optimizer))
        self.steps, self.skipped, self.row = (
            self.steps + counted,
            self.skipped + 1,
            self.row + counted,
        )
        self._tell(trainer, step, wrong, losses, everywhere=math.isfinite(loss))
        self._verdict = self._judged(step)
        self._log(trainer, step)

    # ------------------------------------------------------------------------------ taken, left out

    def _wrong(self, loss: float, norm: float) -> str:
        if not math.isfinite(loss):
            return "the loss is not finite"
        if not math.isfinite(norm):
            return "the gradient is not finite"
        learnt = self.norm_factor is not None and self.steps - self.skipped >= LEARNT
        if learnt and norm > (self.norm_factor or 1.0) * self.norm:
            return f"the gradient's norm is {norm:.3g}, its mean {self.norm:.3g}"
        return ""

    def _taken(self, norm: float) -> None:
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
        if _counts(pl_module, optimizer):
            for count in (progress.total, progress.current):
                count.ready -= 1
                count.completed -= 1  # Lightning is about to add one
        for schedule in trainer.lr_scheduler_configs:
            if schedule.interval == "step":
                schedule.interval = HELD
                self._held.append(schedule)

    def _tell(
        self, trainer: Trainer, step: int, wrong: str, losses: list[Loss], everywhere: bool
    ) -> None:
        if everywhere:  # averaged gradients do not say whose they were
            seen = losses if trainer.is_global_zero else []
        else:
            seen = [loss for loss in losses if not bool(loss.value.isfinite())]
        if not seen or (self.skipped > TOLD and self.skipped % RARE):
            return
        keys = list(dict.fromkeys(key for loss in seen for key in loss.keys))
        shown = ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
        log.warning(
            "left out a step after step %d (%d of %d so far): %s (rank %d%s: %s)",
            *(step, self.skipped, self.steps, wrong, trainer.global_rank),
            *(" and others" if everywhere and trainer.world_size > 1 else "", shown or "no keys"),
        )

    def _judged(self, step: int) -> str:
        """Why the run must stop, or nothing."""
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
            "loss or gradient (warnings above name the pictures); lower the learning rate, set "
            "trainer.gradient_clip_val, train in another trainer.precision, or leave these "
            "pictures out, and run the same command again"
        )

    @rank_zero_only
    def _log(self, trainer: Trainer, step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({"guard/skipped": float(self.skipped)}, step=step)

    # ----------------------------------------------------------------------------------- checkpoint

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to save what cannot be trained on: a step may be finite and too large.

        Raises:
            ValueError: A weight is not finite.
        """
        trained = [part_here(p.detach()) for p in pl_module.parameters() if p.requires_grad]
        finite = math.isfinite(float(get_total_norm(trained)))
        if is_sharded(trainer):
            finite = all(gather(finite))
        if not finite:
            raise ValueError(
                f"the weights after step {steps_done(trainer, pl_module)} are not finite, so they "
                "are not saved and the checkpoint before them stands: lower the learning rate or "
                "set trainer.gradient_clip_val, and run the same command again"
            )

    @property
    def state_key(self) -> str:
        """Where a checkpoint keeps the counts."""
        return "Guard"

    def state_dict(self) -> dict[str, Any]:
        """The counts and the mean norm."""
        return {"steps": self.steps, "skipped": self.skipped, "row": self.row, "norm": self.norm}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.steps, self.skipped = state_dict["steps"], state_dict["skipped"]
        self.row, self.norm = state_dict["row"], state_dict["norm"]


def _counts(pl_module: LightningModule, optimizer: Any) -> bool:
    # Methods with two optimisers say whose updates are steps; else all are.
    counts = getattr(pl_module, "counts", None)
    return counts is None or bool(counts(optimizer))


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
