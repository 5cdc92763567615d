"""Guard: skip training steps that are not finite.

A step is judged when its gradients exist and, with several processes, are averaged: by the sum of
its losses and the norm of its gradient, which are not finite if any part of them is not. Their sum
over all processes is the same on each, and so is the decision.

A bad step changes no weight. A fused Adam skips it on the device, through ``found_inf`` as with
``GradScaler``; for other optimisers the host waits for the verdict and removes the gradients.
Lightning goes on as if the step were good; what it changes (counts, schedules, buffers) is undone
at the end of the batch, before other callbacks. Only there does the host read the verdict on a
fused Adam's step, after the update was queued.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Adam, AdamW

from callbacks.evaluation import gather, is_distributed
from files.method import method_of
from files.numbers import PositiveInt

log = logging.getLogger(__name__)
WARNED = 20  # warnings of one start; later skipped steps are only counted
SHOWN = 8  # images in a warning


class Step:
    """A step that is judged, and what is undone if it is bad.

    Args:
        trainer: The trainer, before the optimiser's update.
        optimizer: The optimiser.
        loss: This process's losses, a scalar.
        finite: Whether the losses and the gradient of all processes are finite, (2,).
    """

    def __init__(self, trainer: Trainer, optimizer: Any, loss: Tensor, finite: Tensor) -> None:
        self.optimizer = optimizer
        self.loss = loss
        self.number = trainer.optimizers.index(optimizer)
        self.counted = method_of(trainer.lightning_module).is_step(optimizer)
        self._loop: Any = trainer.fit_loop.epoch_loop
        self._progress = self._loop.manual_optimization.optim_step_progress
        if trainer.lightning_module.automatic_optimization:
            self._progress = self._loop.automatic_optimization.optim_progress.optimizer.step
        self._ends_epoch = trainer.is_last_batch
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        changing: list[Any] = [self._loop.scheduler_progress, *schedules]
        self._states = [(part, deepcopy(part.state_dict())) for part in changing]
        self._settings = [
            {name: deepcopy(value) for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        self._finite = finite.to("cpu", non_blocking=True)
        self._event = None
        if finite.is_cuda:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def verdict(self) -> tuple[bool, bool]:
        """Return whether the losses, and the gradient, are finite, when the device knows it."""
        if self._event is not None:
            self._event.synchronize()
        loss, gradient = self._finite.tolist()
        return loss, gradient

    def undo(self) -> None:
        """Revert counts, schedules and the learning rates that they set."""
        for part, state in self._states:
            part.load_state_dict(state)
        for group, settings in zip(self.optimizer.param_groups, self._settings, strict=True):
            group.update(settings)
        if self._ends_epoch:  # this was reverted, too
            self._loop.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        if self.counted:
            for count in (self._progress.total, self._progress.current):
                count.ready -= 1
                count.completed -= 1  # in manual optimisation, Lightning is about to add one


class Guard(Callback):
    """Skip steps whose loss or gradient is not finite; stop the run if too many follow each other.

    A skipped step changes nothing, on any process: weights, the optimiser's state, running
    statistics, EMA, schedules and the count of steps stay as they were, and ``max_steps`` counts
    only steps that were taken. It is counted as ``guard/skipped`` and logged with the keys of its
    last batch; with accumulation a step is all of its batches. No checkpoint is written with
    weights that are not finite.

    With ``precision: 16-mixed`` the scaler still searches its scale: a gradient that overflows by
    the scale is skipped as above, but counts only once the scale is below 1.

    With manual optimisation each step through Lightning's optimiser is judged by its own gradients;
    the model itself must hold back its own schedules and counts. An update of a discriminator that
    is left out is no skipped step, but is warned about and may stop the run. Steps that bypass
    Lightning's optimiser are not seen.

    It costs one pass over the gradients and an all-reduce of eight bytes. On a GPU, with another
    optimiser than a fused Adam or AdamW, the host waits for the end of the backward pass.

    Args:
        in_a_row: Stop the run if this many consecutive updates of one optimiser were left out.

    Raises:
        ValueError: If too many steps were skipped, or weights that are to be saved are not finite.
    """

    # Not dispatched, see `callbacks/training/progress.py`.
    on_before_zero_grad = on_after_backward = None  # type: ignore[assignment]

    def __init__(self, in_a_row: PositiveInt = 10) -> None:
        super().__init__()
        self.in_a_row = in_a_row
        self.skipped = 0  # of the whole run
        self.rows: dict[int, int] = {}  # of each optimiser, consecutive bad updates at the end
        self._warned = 0
        self._keys: Sequence[str] = ()  # of the current batch
        self._loss = torch.zeros(())  # of the current step
        # The model's, by type; each group with its last good values.
        self._buffers: list[tuple[list[Tensor], Tensor]] | None = None
        self._unread: Step | None = None  # whose verdict is read at the end of the batch
        self._bad: Step | None = None
        self._stop = ""  # why the run stops before the next batch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Become the first callback: no other one may see a bad step that is not undone."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks.remove(self)
        callbacks.insert(0, self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the count."""
        self._loss = torch.zeros((), device=trainer.strategy.root_device)
        self._buffers = None
        self._unread = None
        self._bad = None
        self._stop = ""
        self._log(trainer, trainer.global_step)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the images.

        Raises:
            ValueError: If too many steps were skipped.
        """
        if self._stop:
            raise ValueError(self._stop)
        if self._buffers is None:
            # Only now: the model's `on_train_start`, which comes after ours, may measure a buffer.
            self._keep(pl_module)
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
        loss = self._loss
        self._loss = torch.zeros_like(loss)
        finite = _loss_and_norm(loss, optimizer).isfinite()
        step = Step(trainer, optimizer, loss, finite)
        if _skips_by_itself(trainer, optimizer):
            optimizer.found_inf = finite.all().logical_not().float()
            self._unread = step
            return
        if self._is_good(step, pl_module):
            return
        optimizer.zero_grad(set_to_none=True)
        self._count(trainer, step)
        self._bad = step
        if not pl_module.automatic_optimization:  # there may be another step in this batch
            self._undo(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Undo a bad step."""
        step = self._unread
        self._unread = None
        if step is not None:
            del step.optimizer.found_inf
            if not self._is_good(step, pl_module):
                self._bad = step
                self._undo(pl_module)
                self._count(trainer, step)
        self._undo(pl_module)

    on_exception = on_train_batch_end  # before a checkpoint of the failed run is written

    def _is_good(self, step: Step, module: LightningModule) -> bool:
        if not all(step.verdict()):
            return False
        self.rows.pop(step.number, None)
        self._keep(module)
        return True

    def _keep(self, module: LightningModule) -> None:
        # A forward pass updates running statistics. One copy for each type, not for each buffer.
        self._buffers = [
            (buffers, torch.cat([buffer.flatten() for buffer in buffers]))
            for buffers in _by_type(module)
        ]

    def _undo(self, module: LightningModule) -> None:
        if self._bad is None:
            return
        self._bad.undo()
        self._bad = None
        for buffers, values in self._buffers or ():
            parts = torch.split(values, [buffer.numel() for buffer in buffers])
            for buffer, part in zip(buffers, parts, strict=True):
                good = part.view(buffer.shape)
                if not torch.equal(buffer, good):  # constants may be read-only views
                    buffer.copy_(good)

    def _count(self, trainer: Trainer, judged: Step) -> None:
        """Count and log a bad step; what it has changed is undone, or did not happen yet."""
        loss_is_finite, _ = judged.verdict()
        scaler = _scaler(trainer)
        if loss_is_finite and scaler is not None and scaler.get_scale() >= 1:
            return  # it looks for its scale
        quantity, here = "loss", not bool(judged.loss.isfinite())
        if loss_is_finite:  # the source of averaged gradients is unknown
            quantity, here = "gradient", trainer.is_global_zero
        step, number, is_step = trainer.global_step, judged.number, judged.counted
        row = self.rows.get(number, 0) + 1
        self.rows[number] = row
        self.skipped += is_step
        left_out = "step" if is_step else "discriminator update"
        so_far = f"{self.skipped} so far" if is_step else f"{row} in a row"
        if here and self._warned < WARNED:
            self._warned += 1
            log.warning(
                f"left out a {left_out} after step {step} ({so_far}): the {quantity} is not finite "
                f"(rank {trainer.global_rank}: {', '.join(self._keys[:SHOWN])})"
            )
        if row >= self.in_a_row:
            self._stop = (
                f"stopped after step {step}, whose weights are still good: {row} {left_out}s in a "
                "row were left out, see the warnings above; lower the learning rate, set "
                "trainer.gradient_clip_val, train in another trainer.precision, or leave these "
                "images out, and run the same command again"
            )
        self._log(trainer, step)

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
            ValueError: If a weight is not finite.
        """
        trained = [_local(p.detach()) for p in pl_module.parameters() if p.requires_grad]
        finite = bool(get_total_norm(trained).isfinite())
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            finite = all(gather(finite))
        if not finite:
            raise ValueError(
                f"the weights after step {trainer.global_step} are not finite, so they are not "
                "saved: lower the learning rate or set trainer.gradient_clip_val, and run the same "
                "command again"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"skipped": self.skipped, "rows": dict(self.rows)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self.skipped, self.rows = state_dict["skipped"], dict(state_dict.get("rows", {}))


def _loss_and_norm(loss: Tensor, optimizer: Any) -> Tensor:
    # Sums over all processes of the loss and of the gradient's norm (2,).
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = get_total_norm([_local(p.grad) for p in parameters if p.grad is not None])
    both = torch.stack([loss, norm.to(loss)])
    if is_distributed():
        dist.all_reduce(both)
    return both


def _skips_by_itself(trainer: Trainer, optimizer: Any) -> bool:
    # `GradScaler` relies on the same. Fused SGD would begin with momentum that is not initialised.
    return (
        trainer.lightning_module.automatic_optimization
        and _scaler(trainer) is None
        and not isinstance(trainer.strategy, ModelParallelStrategy)
        and type(optimizer) in (Adam, AdamW)
        and all(group["fused"] for group in optimizer.param_groups)
    )


def _by_type(module: LightningModule) -> list[list[Tensor]]:
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for buffer in module.buffers():
        groups.setdefault((buffer.device, buffer.dtype), []).append(buffer)
    return list(groups.values())


def _local(tensor: Tensor) -> Tensor:
    # This process's part of a sharded tensor; any other tensor as it is.
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _scaler(trainer: Trainer) -> Any:
    return getattr(trainer.precision_plugin, "scaler", None)
