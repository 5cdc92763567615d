"""Guard: leave out updates whose gradient is not finite.

The device judges a gradient when it is complete and, with several processes, averaged. A fused Adam
leaves the update out on the device, by ``found_inf`` as with ``GradScaler``; other optimisers skip
parameters without a gradient, for which the host waits for the verdict. Everything else goes on as
after any step, so nothing is undone. The host reads the verdict one update later.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Adam, AdamW

from callbacks.evaluation import gather, is_distributed
from files.numbers import PositiveInt

log = logging.getLogger(__name__)
SHOWN = 8  # images in a warning


class Verdict(NamedTuple):
    """Whether an update's gradient is finite; the host reads it later.

    step: The step that it belongs to, counted from 1.
    optimizer: Position of its optimiser.
    keys: Images of this process's last batch.
    finite: Whether the gradient, and the loss of that batch, are finite; (2,), on its way to the
        host.
    arrived: When it is there; None if it never was on a GPU.
    """

    step: int
    optimizer: int
    keys: Sequence[str]
    finite: Tensor
    arrived: torch.cuda.Event | None


class Guard(Callback):
    """Leave out updates whose gradient is not finite; stop the run if too many follow each other.

    Such an update changes neither weights nor the optimiser's state, on any process, and running
    statistics of its batches are dropped. It counts as a step: schedules, EMA and ``max_steps`` go
    on. A warning names the images of the step's last batch, and ``guard/skipped`` counts. No
    checkpoint is written with weights that are not finite.

    Each optimiser's updates are judged by themselves, also with manual optimisation; those that
    bypass Lightning's optimiser are not seen.

    With ``precision: 16-mixed`` the scaler leaves updates out while it searches its scale. They
    count here only once the scale is below 1.

    It costs one pass over the gradients and an all-reduce of four bytes. On a GPU, with another
    optimiser than a fused Adam or AdamW, the host waits for the end of the backward pass.

    Args:
        in_a_row: Stop the run if this many consecutive updates of one optimiser were left out.

    Raises:
        ValueError: If too many updates were left out, or weights that are to be saved are not
            finite.
    """

    # Not dispatched, see `callbacks/training/progress.py`.
    on_before_zero_grad = on_after_backward = on_train_batch_end = None  # type: ignore[assignment]

    def __init__(self, in_a_row: PositiveInt = 10) -> None:
        super().__init__()
        self.in_a_row = in_a_row
        self.skipped = 0  # updates of the whole run
        self.rows: dict[int, int] = {}  # of each optimiser, consecutive ones at the end
        self._trainer: Any = None
        self._step = 0  # of the current batch, counted from 1
        self._keys: Sequence[str] = ()  # of the current batch
        self._loss = torch.zeros(())  # of the current batch
        self._statistics: list[Tensor] = []  # running ones of the model's norms
        self._good: list[Tensor] = []  # their last good values
        self._unread: list[Verdict] = []
        self._stop = ""  # why the run stops before the next batch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the running statistics."""
        self._trainer = trainer
        self._loss = torch.zeros((), device=trainer.strategy.root_device)
        norms = [m for m in pl_module.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        self._statistics = [each for norm in norms for each in norm.buffers(recurse=False)]
        self._good = [values.clone() for values in self._statistics]
        self._unread = []
        self._stop = ""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the images.

        Raises:
            ValueError: If too many updates were left out.
        """
        if self._stop:
            raise ValueError(f"stopped after step {trainer.global_step}: {self._stop}")
        self._step = trainer.global_step + 1
        self._keys = batch.get("key", ()) if isinstance(batch, Mapping) else ()

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Note the loss, a scalar."""
        self._loss = loss.detach()

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Judge the gradient; if it is not finite, the optimiser changes nothing."""
        self._read_verdicts()
        finite = _gradient_is_finite(optimizer, self._loss.device)
        if _scaler(trainer) is None:  # which would leave it out itself
            if _takes_found_inf(trainer, optimizer):
                optimizer.found_inf = finite.logical_not().float()
            elif not finite:
                optimizer.zero_grad(set_to_none=True)
        for values, good in zip(self._statistics, self._good, strict=True):
            good.copy_(torch.where(finite, values, good))
            values.copy_(good)
        both = torch.stack([finite, self._loss.isfinite().all()]).to("cpu", non_blocking=True)
        arrived = None
        if finite.is_cuda:
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        number = trainer.optimizers.index(optimizer)
        self._unread.append(Verdict(self._step, number, self._keys, both, arrived))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the last updates."""
        self._read_verdicts()

    def _read_verdicts(self) -> None:
        """Wait for the verdicts of earlier updates, and count those that were left out."""
        for verdict in self._unread:
            if verdict.arrived is not None:
                verdict.arrived.synchronize()
            gradient_is_finite, loss_is_finite = verdict.finite.tolist()
            if gradient_is_finite:
                self.rows.pop(verdict.optimizer, None)
            else:
                self._record_skipped(verdict, loss_is_finite)
        self._unread = []

    def _record_skipped(self, verdict: Verdict, loss_is_finite: bool) -> None:
        """Count, log and warn of an update that was left out; note if the run has to stop."""
        scaler = _scaler(self._trainer)
        if scaler is not None and scaler.get_scale() >= 1:
            return  # it looks for its scale
        in_a_row = self.rows.get(verdict.optimizer, 0) + 1
        self.rows[verdict.optimizer] = in_a_row
        self.skipped += 1
        # A process whose own loss is not finite names its images. Averaging makes the gradient not
        # finite on all processes, so none knows whose images it was, and the first names its own.
        if not loss_is_finite or self._trainer.is_global_zero:
            quantity = "gradient" if loss_is_finite else "loss"
            log.warning(
                "left out the update of optimizer %d in step %d (%d so far; the step counts): the "
                "%s is not finite (rank %d: %s)",
                verdict.optimizer,
                verdict.step,
                self.skipped,
                quantity,
                self._trainer.global_rank,
                ", ".join(verdict.keys[:SHOWN]),
            )
        if in_a_row >= self.in_a_row:
            self._stop = (
                f"{in_a_row} updates in a row were left out, see the warnings above, and the "
                "weights before them are kept; lower the learning rate, set "
                "trainer.gradient_clip_val, train in another trainer.precision, or leave these "
                "images out, and run the same command again"
            )
        step = verdict.step - 1  # at which Lightning logs this step's numbers
        for logger in self._trainer.loggers:
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
        self._read_verdicts()
        return {"skipped": self.skipped, "rows": dict(self.rows)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self.skipped, self.rows = state_dict["skipped"], dict(state_dict.get("rows", {}))


def _gradient_is_finite(optimizer: Any, device: torch.device) -> Tensor:
    """Return a scalar: whether the gradients of an optimiser are finite on all processes."""
    # Of a sharded gradient each process has a part.
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = get_total_norm([_local(p.grad) for p in parameters if p.grad is not None]).to(device)
    if is_distributed():
        dist.all_reduce(norm)
    return norm.isfinite()


def _takes_found_inf(trainer: Trainer, optimizer: Any) -> bool:
    """Return whether an optimiser leaves an update out if its ``found_inf`` is 1: a fused Adam.

    Fused SGD would then begin with momentum that is not initialised.
    """
    is_adam = type(optimizer) in (Adam, AdamW)
    is_fused = is_adam and all(group["fused"] for group in optimizer.param_groups)
    return is_fused and not isinstance(trainer.strategy, ModelParallelStrategy)


def _local(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _scaler(trainer: Trainer) -> Any:
    """Return the ``GradScaler`` of ``precision: 16-mixed``; None with another precision."""
    return getattr(trainer.precision_plugin, "scaler", None)
