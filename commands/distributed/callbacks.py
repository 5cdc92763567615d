"""Callbacks at the start and at the end of a run on several ranks."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from callbacks.evaluation import all_callbacks
from callbacks.results.files import made_by
from callbacks.tensorboard import TensorBoard
from commands.distributed.preflight import compare
from commands.errors import ConfigurationError
from commands.run.checkpoints import checkpoints_of, gradients_pending
from commands.run.loggers import keep_ids, log_hyperparameters
from commands.signals import Signals, Stopped
from datamodules.base import SRDataModule
from files.method import method_of
from files.owned import refuse_moved
from files.waits import WAITS


class Start(Callback):
    """At the start: compare the data of all processes, and log the hyperparameters.

    Args:
        config: The configuration of ``fit``; None for other commands.
    """

    def __init__(self, config: dict[str, Any] | None) -> None:
        self.config = config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare after the setup of the data module, before training.

        Raises:
            ConfigurationError: If the processes differ.
        """
        # Of a run that still trains, another process may have found newer ones to be the best.
        weights = made_by(method_of(pl_module))
        compare({"data": data_facts(trainer), "weights": weights})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that no part begins to train later, on several processes.

        Raises:
            ConfigurationError: If one does, whose gradients processes would not average.
        """
        for callback in all_callbacks(trainer):
            if isinstance(callback, BaseFinetuning) and trainer.world_size > 1:
                raise ConfigurationError(
                    f"trainer.callbacks has {type(callback).__name__}, and processes do not "
                    "average the gradients of what it unfreezes: set trainer.devices to 1, or "
                    "train in two runs, the second one from the weights of the first"
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log hyperparameters, and keep the ids of the run in W&B and MLflow."""
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard):
                logger.begin(trainer.global_step)
        if self.config is not None:
            log_hyperparameters(trainer, self.config)
            keep_ids(trainer)


def data_facts(trainer: Trainer) -> dict[str, Any]:
    """Return what determines the samples and their order; long values as hashes."""
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, SRDataModule):
        return {}
    order = data.state_dict() if trainer.state.fn == "fit" else {}
    facts = {name: _short_text(value) for name, value in order.items()}
    return {**facts, **data.files_seen()}


def _short_text(value: Any) -> str:
    """Return a value as text, a long one as its hash: enough to compare it."""
    text = repr(value)
    return text if len(text) < 80 else hashlib.sha256(text.encode()).hexdigest()[:16]


class Agreement:
    """The largest number of all processes, exchanged without waiting.

    Each step starts an exchange on the CPU and reads the one started a step before. It never waits
    for a device, and for another host only if that is a whole step behind.
    """

    def __init__(self) -> None:
        limit = timedelta(seconds=WAITS.limit)
        self._group: Any = dist.new_group(backend="gloo", timeout=limit)
        self._number = torch.zeros(1, dtype=torch.int32)
        self._work: Any = None

    def step(self, mine: int) -> int:
        """Send a number, and return the result of the previous call.

        Args:
            mine: Number of this process; at least 0.

        Returns:
            The largest number of all processes at the previous call, equal on all of them.
        """
        agreed = self._wait_for_result()
        if not agreed:
            self._number.fill_(mine)
            self._work = dist.all_reduce(
                self._number, dist.ReduceOp.MAX, group=self._group, async_op=True
            )
        return agreed

    def now(self, mine: int) -> int:
        """Wait for all processes, and return the largest number of all, also of earlier calls."""
        self._number.fill_(max(mine, self._wait_for_result()))
        dist.all_reduce(self._number, dist.ReduceOp.MAX, group=self._group)
        return int(self._number)

    def _wait_for_result(self) -> int:
        """Return the result of the exchange that was started; 0 if there is none."""
        if self._work is None:
            return 0
        self._work.wait()
        self._work = None
        return int(self._number)


class Stops(Callback):
    """Stop after a signal: between two steps of training, or two images of an evaluation.

    ``predict`` stops within an image, before the next module of its network: a large image takes
    minutes.

    A signal is exchanged at the end of a step and known to all processes one step later. The
    checkpoint is written when the batch or the epoch after it begins, or after the accumulation. A
    validation is interrupted, and its values are discarded: the resumed run repeats it, and the
    steps since the newest checkpoint.

    Args:
        signals: The signals of this process.
    """

    # Not dispatched, see `callbacks/training/progress.py`.
    on_before_zero_grad = on_before_backward = None  # type: ignore[assignment]
    on_after_backward = on_before_optimizer_step = None  # type: ignore[assignment]

    def __init__(self, signals: Signals) -> None:
        super().__init__()
        self.signals = signals
        self._agreement: Agreement | None = None  # None on a single process
        self._agreed = 0  # the signal that all processes know of
        self._module_hook: RemovableHandle | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Create the process group; all processes come here together."""
        if trainer.world_size > 1 and self._agreement is None:
            self._agreement = Agreement()

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Remove the hook of ``predict``."""
        if self._module_hook is not None:
            self._module_hook.remove()
        self._module_hook = None

    on_exception = teardown

    # ------------------------------------------------------------------------------------- training

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Exchange received signals."""
        if self._agreed:
            return
        mine = self.signals.received
        self._agreed = mine if self._agreement is None else self._agreement.step(mine)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before other callbacks begin the epoch: the resumed run begins it.

        Raises:
            Stopped: If all processes know of a signal.
        """
        self._stop(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop here after a signal: the step before is complete, and the next has not begun.

        Raises:
            Stopped: If all processes know of a signal.
            MovedError: If the run's folder was moved.
        """
        refuse_moved(Path(trainer.default_root_dir))
        if batch_idx > 0:  # else the epoch has begun, and would begin again on a resume
            self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        """After a signal, write a checkpoint and raise; but not within an accumulation."""
        if self._agreement is None:  # a single process
            self._agreed = self.signals.received
        if not self._agreed or gradients_pending(trainer):
            return
        for checkpoints in checkpoints_of(trainer):
            checkpoints.save_last(trainer)
        raise Stopped(self._agreed, f"after step {trainer.global_step}")

    # ----------------------------------------------------------------------------------- evaluation

    def on_validation_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop before the next image, if this process has received a signal."""
        if self._agreed or self.signals.received:
            self._stop_evaluation(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if another process has: afterwards, processes wait for each other's metrics."""
        self._stop_evaluation(trainer)

    on_test_batch_start, on_test_epoch_end = on_validation_batch_start, on_validation_epoch_end

    def on_predict_start(self, *args: Any, **kwargs: Any) -> None:
        """Look for a signal before each module of the network, too; earlier images are written."""
        self._module_hook = register_module_forward_pre_hook(self.on_predict_batch_start)

    def on_predict_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Stop before the next image."""
        if self.signals.received:
            raise Stopped(self.signals.received, "before its end")

    def _stop_evaluation(self, trainer: Trainer) -> None:
        """Exchange signals, and raise on all processes if one of them has received any.

        Processes have different numbers of images, so each calls this exactly once: when it has
        received a signal, or at its end.
        """
        if gradients_pending(trainer):
            return  # nothing could be saved here; training stops after the accumulation
        received = self._agreed or self.signals.received
        agreed = received if self._agreement is None else self._agreement.now(received)
        if agreed and trainer.state.fn == "fit" and not trainer.sanity_checking:
            raise Stopped(agreed, f"in the validation after step {trainer.global_step}")
        if agreed:
            raise Stopped(agreed, "before its end")
