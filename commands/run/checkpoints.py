"""Checkpoints, and counters that resume exactly.

Lightning can save at many points of its loops (after a batch, in a validation, after an exception).
Each leaves its counters in another state, and some resume one batch off. Here a checkpoint becomes
due after a step or a validation, and is written when the next batch starts: then everything of the
step before (validation, schedules, EMA) is done. Its counters are set to the form that resumes
exactly, the number of finished steps of this epoch. A run that stops anywhere else repeats what
came after its newest checkpoint.

Checkpoints keep monitored values, which Lightning does not. Early stopping would fail in a run that
continues between a validation and the end of its epoch.
"""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler

from callbacks.evaluation import accumulated, all_callbacks
from callbacks.metrics.base import Metric
from commands.arguments.saved_config import as_yaml
from commands.errors import ConfigurationError, did_you_mean
from commands.lightning_internals import set_logged_step
from commands.run.files import (
    CONFIG,
    FOLDER,
    WEIGHTS,
    is_whole,
    list_checkpoints,
    write_atomically,
    write_whole,
)
from commands.run.measured import measured_on
from commands.run.optimiser_options import optimiser_options, warn_of_other_options
from commands.run.ranking import Ranking, read_ranking
from files.checksums import checksum_of
from files.method import method_of
from files.numbers import NonNegativeFloat, NonNegativeInt, PositiveInt
from files.owned import remove_file
from files.weights import plain, read_file
from lightning_modules.loading import Loaded

log = logging.getLogger(__name__)

PSNR = "val/psnr"


def batches_done(trainer: Trainer) -> int:
    """Return the number of finished training batches of this epoch."""
    # Lightning's `ready` is one ahead within a step, and `completed` one behind at its end.
    return int(vars(trainer.fit_loop.epoch_loop.batch_progress.current)["processed"])


def gradients_pending(trainer: Trainer) -> bool:
    """Return whether gradients are accumulated, of batches whose optimiser step is still to come.

    Then nothing can be saved: checkpoints hold no gradients.
    """
    done = batches_done(trainer)
    last = done >= trainer.num_training_batches
    return not last and done % accumulated(trainer) != 0


def apply_accumulation_schedules(trainer: Trainer) -> None:
    """Apply accumulation schedules to an epoch that a resumed run continues in its middle.

    Lightning only calls them at the start of an epoch.

    Args:
        trainer: The trainer, before its first batch.
    """
    for callback in all_callbacks(trainer):
        if isinstance(callback, GradientAccumulationScheduler):
            callback.on_train_epoch_start(trainer)


def correct_logged_step(trainer: Trainer, pl_module: LightningModule) -> None:
    """Let the step at which values are logged be that of the weights, between two steps.

    Lightning's is off by one after some resumes.
    """
    # Another manual method may take several optimiser steps a batch: ``global_step`` counts them
    # all, and Lightning logs by batches.
    if pl_module.automatic_optimization or method_of(pl_module).batches_per_step is not None:
        set_logged_step(trainer)


def monitored_values(trainer: Trainer) -> dict[str, float]:
    """Return the latest of each monitored value, by name; without those not logged yet."""
    names = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
    names |= {c.monitor for c in all_callbacks(trainer) if isinstance(c, EarlyStopping)}
    logged = trainer.callback_metrics
    return {name: float(logged[name]) for name in sorted(map(str, names)) if name in logged}


def better_direction(monitor: str, trainer: Trainer) -> Literal["min", "max"] | None:
    """Return ``max`` if higher values of a logged name are better, ``min`` if lower, else None.

    Args:
        monitor: As logged, such as ``val/psnr``, ``val/set5/swd_2`` or ``train/loss``.
        trainer: The trainer, whose metrics know their own direction.
    """
    name = monitor.rpartition("/")[2]
    metrics = [callback for callback in all_callbacks(trainer) if isinstance(callback, Metric)]
    for metric in sorted(metrics, key=lambda metric: len(metric.name), reverse=True):
        if name == metric.name or name.startswith(f"{metric.name}_"):
            higher = metric.is_higher_better(name)
            if higher is None:
                return None
            return "max" if higher else "min"
    return "min" if name.endswith("loss") else None


class Checkpoints(Callback):
    """Write checkpoints to ``<run>/checkpoints``, keep the last and the best.

    It stands before all other callbacks: it saves an epoch's end before they begin the next epoch,
    and the end of a training before they change the weights.

    Args:
        every_n_steps: Steps between two checkpoints; 0 for none by steps.
        every_n_minutes: Minutes between two checkpoints; 0 for none by time. On several ranks
            the clock is read every ``trainer.log_every_n_steps`` steps.
        keep_last: Number of newest checkpoints to keep.
        keep_best: Number of best checkpoints to keep, which ``test``, ``predict`` and ``export``
            use. By default 1; but 0 for a generative method by PSNR, whose last weights they use.
        monitor: The logged value that ranks checkpoints. Checkpoints without it are not ranked.
        mode: Whether the largest (``max``) or smallest (``min``) value is best. By default it
            follows from the metric or loss.
    """

    # Not dispatched, see `callbacks/training/progress.py`.
    on_before_zero_grad = on_before_backward = None  # type: ignore[assignment]
    on_after_backward = on_before_optimizer_step = None  # type: ignore[assignment]
    group = "checkpoint"  # of the configuration

    def __init__(
        self,
        every_n_steps: NonNegativeInt = 1000,
        every_n_minutes: NonNegativeFloat = 15.0,
        keep_last: PositiveInt = 2,
        keep_best: NonNegativeInt | None = None,
        monitor: str = PSNR,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.keep_last = keep_last
        self.keep_best = keep_best
        self.monitor = monitor
        self.mode = mode
        self.folder = Path(FOLDER)
        self.config: dict[str, Any] | None = None  # set by the command line
        self._is_dry = False  # `fast_dev_run`: nothing is written
        self._has_begun = False  # whether the first batch of this start has begun
        self._is_due = False  # a checkpoint is written when the next batch starts
        self._saved_step = -1  # of the newest checkpoint
        self._saved_at = time.monotonic()
        # Where a run continues: the epoch, and how many of its batches are finished.
        self._position: tuple[int, int] | None = None
        self._ranking = Ranking()
        self._monitored_value: float | None = None  # of the current weights, if validated
        self._values_before_validation: dict[str, Any] = {}
        self._has_checked_monitor = False  # whether a validation has logged it, or a warning came
        self._validated_step = -1  # of the newest validation
        self._resumed_values: dict[str, float] = {}  # monitored values that the checkpoint has
        # Of the optimisers as configured, before the checkpoint's are restored.
        self._configured_options: list[dict[str, str]] = []

    # --------------------------------------------------------------------------------- at the start

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder."""
        self.folder = Path(trainer.default_root_dir) / FOLDER
        self._is_dry = bool(vars(trainer)["fast_dev_run"])
        if self.keep_best is None:
            uses_last = method_of(pl_module).uses_last_weights and self.monitor == PSNR
            self.keep_best = 0 if uses_last else 1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the options of optimisers before they are restored."""
        self._configured_options = optimiser_options(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore what Lightning does not."""
        self._has_begun = False
        if self.config is None:  # else the configuration was compared
            warn_of_other_options(self._configured_options, optimiser_options(trainer))
        device = trainer.strategy.root_device
        for name, value in self._resumed_values.items():
            trainer.callback_metrics[name] = torch.tensor(value, device=device)
        ranking = read_ranking(self.folder)
        names = {*ranking.written, *ranking.scores}
        ranking = ranking.without({each for each in names if not (self.folder / each).is_file()})
        ranking.monitor = self.monitor
        ranking.mode = self.mode or better_direction(self.monitor, trainer) or "max"
        if not self.keep_best:  # but an earlier start may have
            ranking.best = []
        self._ranking = ranking
        resumed_from = Path(trainer.ckpt_path or "")
        if resumed_from.parent == self.folder:
            self._saved_step = trainer.global_step
            if resumed_from.name not in ranking.written:  # killed before the list was written
                ranking.written.append(resumed_from.name)
        self._saved_at = time.monotonic()

    def _write_configuration(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``config.yaml``: at the first batch, when nothing can refuse the start any more."""
        if not trainer.is_global_zero or self.config is None or self._is_dry:
            return
        run = self.folder.parent
        write_atomically(run / CONFIG, as_yaml(self.config).encode())
        if isinstance(pl_module, Loaded) and pl_module.partly_loaded:
            write_atomically(run / WEIGHTS, json.dumps(pl_module.partly_loaded, indent=2).encode())

    # -------------------------------------------------------------------------------- when to write

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a due checkpoint, before other callbacks begin the epoch."""
        correct_logged_step(trainer, pl_module)
        self._save_due(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write a due checkpoint: the step before is complete, and the next one has not begun."""
        if not self._has_begun:
            self._has_begun = True
            apply_accumulation_schedules(trainer)
            self._write_configuration(trainer, pl_module)
        self._position = (trainer.current_epoch, batches_done(trainer))
        correct_logged_step(trainer, pl_module)
        self._save_due(trainer)

    def _save_due(self, trainer: Trainer) -> None:
        """Write a checkpoint if one is due, and not in the middle of an accumulation."""
        if self._is_due and not gradients_pending(trainer):
            self._save(trainer)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Note the position, and decide whether a checkpoint is due."""
        epoch = trainer.current_epoch
        batches = batches_done(trainer)
        if batches >= trainer.num_training_batches:
            self._position = (epoch + 1, 0)
        else:
            self._position = (epoch, batches)
        if gradients_pending(trainer):
            return
        self._monitored_value = None
        step = trainer.global_step
        if self.every_n_steps and step > 0 and step != self._saved_step:
            self._is_due |= step % self.every_n_steps == 0
        if self.every_n_minutes:
            self._is_due |= self._is_due_by_time(trainer)

    def _is_due_by_time(self, trainer: Trainer) -> bool:
        """Return whether the last checkpoint is ``every_n_minutes`` old, by the first clock."""
        is_late = time.monotonic() - self._saved_at >= 60 * self.every_n_minutes
        if trainer.world_size == 1:
            return is_late
        if trainer.global_step % max(1, vars(trainer)["log_every_n_steps"]):
            return False
        return bool(trainer.strategy.broadcast(is_late))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the values so far, to tell later which of them this validation has logged.

        Lightning keeps the old ones, which early stopping and schedules may read.
        """
        self._values_before_validation = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the monitored value; a validated checkpoint is due, as it may be the best."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        logged = {
            name: value
            for name, value in trainer.callback_metrics.items()
            if value is not self._values_before_validation.get(name)
        }
        self._validated_step = trainer.global_step
        value = logged.get(self.monitor)
        if self.keep_best and not self._has_checked_monitor:
            self._warn_of_monitor(trainer, [name for name in logged if name.startswith("val/")])
        if not gradients_pending(trainer):
            self._monitored_value = None if value is None else float(value)
            self._is_due = True
        elif value is not None:
            log.warning(
                "the validation after step %d ran within an accumulation of %d batches, where no "
                "checkpoint can be written: its %s is not ranked; set trainer.val_check_interval "
                "to a multiple",
                trainer.global_step,
                accumulated(trainer),
                self.monitor,
            )

    def _warn_of_monitor(self, trainer: Trainer, logged: list[str]) -> None:
        """Warn once if checkpoints are not ranked, or it is unknown which are better.

        Args:
            trainer: The trainer.
            logged: Names of what the validation logged.
        """
        is_logged = self.monitor in logged
        if is_logged and self.mode is None and better_direction(self.monitor, trainer) is None:
            log.warning(
                "checkpoint.monitor is %r, and it is unknown whether larger values are better: the "
                "largest counts as the best; set checkpoint.mode to max or min",
                self.monitor,
            )
        if logged and not is_logged:
            log.warning(
                "checkpoint.monitor is %r, which this validation did not log, so no checkpoint is "
                "ranked as best%s; logged: %s",
                self.monitor,
                did_you_mean(self.monitor, logged),
                ", ".join(logged),
            )
        self._has_checked_monitor = bool(logged)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if training ends within an epoch: a run that continues goes on in its middle."""
        if batches_done(trainer) < trainer.num_training_batches:
            self.save_last(trainer)
        # A continued epoch ends as any other; else plateau schedules are skipped once.
        trainer.fit_loop.on_iteration_done()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before other callbacks change the weights, as EMA puts in its averages."""
        self.save_last(trainer)
        if self._ranking.best and self._validated_step != trainer.global_step:
            log.warning(
                "the weights of step %d were not validated (trainer.val_check_interval): test uses "
                "the best ones that were (checkpoint.keep_best), or --ckpt_path",
                trainer.global_step,
            )

    def save_last(self, trainer: Trainer) -> None:
        """Write a last checkpoint when a run ends or stops, unless this step has one already.

        Raises:
            OSError: If it could not be written.
        """
        is_new = self._is_due or trainer.global_step != self._saved_step
        if is_new and self._position is not None and not gradients_pending(trainer):
            self._save(trainer, final=True)

    # ------------------------------------------------------------------------------ what is written

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the values until training starts.

        Raises:
            ConfigurationError: If the checkpoint is from within a validation, by a version that
                wrote such ones.
        """
        if state_dict.get("validation_due"):
            raise ConfigurationError(
                "the checkpoint is from within a validation, written by an earlier version: delete "
                "it, and the run resumes from the one before"
            )
        self._resumed_values = state_dict.get("awaited", {})

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set the counters of Lightning's loops to ``_position``, from which it resumes exactly."""
        values = monitored_values(trainer)
        if values:
            checkpoint["callbacks"][self.state_key] = {"awaited": values}
        if self._position is None:
            return
        epoch, batches = self._position
        loop = checkpoint["loops"]["fit_loop"]
        done = vars(trainer.fit_loop.epoch_loop.batch_progress.total)["processed"]
        loop["epoch_loop.batch_progress"] = _progress_state(done, batches)
        begun = epoch + 1 if batches else epoch
        counts = {"ready": begun, "started": begun, "processed": epoch, "completed": epoch}
        loop["epoch_progress"] = {"total": dict(counts), "current": dict(counts)}
        loop["epoch_loop.val_loop.batch_progress"] = _progress_state(0, 0)
        checkpoint["epoch"] = epoch

    def _save(self, trainer: Trainer, final: bool = False) -> None:
        """Write one checkpoint; earlier ones are kept until it is complete.

        Args:
            trainer: The trainer; all ranks call this together.
            final: Whether the run ends with it, so that a failure must raise.

        Raises:
            OSError: If the final checkpoint could not be written.
        """
        if self._is_dry:
            return
        path = self.folder / f"step-{trainer.global_step:09d}.ckpt"
        try:
            write_checkpoint(trainer, path)
        except OSError as error:
            present = ", ".join(p.name for p in list_checkpoints(self.folder)) or "none"
            message = f"{path} could not be written ({error}); kept: {present}"
            if final:
                raise OSError(message) from error
            log.error("%s. Training continues and tries again at the next checkpoint.", message)
        else:
            self._saved_step = trainer.global_step
            try:
                if trainer.is_global_zero:
                    self._rank_and_delete(trainer, path.name)
            except OSError as error:  # the other processes do not know of it
                log.error("%s is written, but not ranked, or old ones remain: %s", path, error)
        self._saved_at = time.monotonic()
        self._is_due = False

    def _rank_and_delete(self, trainer: Trainer, name: str) -> None:
        """Rank a new checkpoint; delete damaged later ones, and those neither newest nor best.

        Args:
            trainer: The trainer.
            name: The checkpoint's name.

        Raises:
            OSError: If the ranking could not be written; then nothing is deleted.
        """
        written = [each for each in self._ranking.written if each < name]  # names have the step
        # The run would have resumed from a later one if it were intact. One that is intact all the
        # same, as with an earlier --ckpt_path, is forgotten and stays on the disk.
        later = [each for each in self._ranking.written if each > name]
        damaged = [each for each in later if not is_whole(self.folder / each)]
        ranking = self._ranking.without({name, *later})
        ranking.written.append(name)
        value = self._monitored_value
        if value is not None and math.isfinite(value):  # else it cannot be the best
            measured = measured_on(trainer, self.monitor, self.config)
            ranking.scores[name] = {
                "monitor": self.monitor,
                "value": value,
                "measured": measured,
            }
            self._choose_best(ranking, measured)
        kept = {*ranking.newest(self.keep_last), *ranking.best}
        removed = {each for each in written if each not in kept}
        self._ranking = ranking  # with all files: if the write fails, none of them is deleted
        ranking.without(removed).write(self.folder)
        self._ranking = ranking.without(removed)
        for each in [*damaged, *removed]:
            remove_file(self.folder / each)
            remove_file(checksum_of(self.folder / each))

    def _choose_best(self, ranking: Ranking, measured: str) -> None:
        """Find the best checkpoints; the best ones of other measurements are kept beside them.

        Args:
            ranking: With the present score; changed in place.
            measured: What this was measured on.
        """
        others = [each for each in ranking.best if ranking.scores[each]["measured"] != measured]
        if others and others[0] == ranking.best[0]:
            log.warning(
                "best.json has scores of other images, settings or metrics, which are not compared "
                "with those of now; the best of them are kept: %s",
                ", ".join(others),
            )
        ranking.best = [*ranking.best_of(measured, self.keep_best or 0), *others]


class FinishesStep(Callback):
    """Let a stop by Lightning, such as that of ``max_time``, wait for the end of an accumulation.

    Checkpoints have no gradients, so nothing could be saved within one. It stands after all others,
    also the timer that Lightning appends for ``max_time``. Lightning validates before such a stop,
    and early stopping and plateau schedules count that, too, so the continued run may differ from
    an uninterrupted one; a signal stops without it.
    """

    # Not dispatched, see `callbacks/training/progress.py`.
    on_before_zero_grad = on_before_backward = None  # type: ignore[assignment]
    on_after_backward = on_before_optimizer_step = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self._is_stopping = False

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Put off a stop that was asked for within an accumulation, until its last batch."""
        if gradients_pending(trainer):
            self._is_stopping |= trainer.should_stop
            trainer.should_stop = False
        elif self._is_stopping:
            self._is_stopping = False
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put off a stop by a validation within an accumulation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.on_train_batch_end(trainer)


def checkpoints_of(trainer: Trainer) -> list[Checkpoints]:
    """Return the trainer's ``Checkpoints``, of which there is one at most."""
    return [c for c in all_callbacks(trainer) if isinstance(c, Checkpoints)]


class _WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint and its checksum; keeps an error of the disk for the other processes."""

    error: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, *_: Any, **__: Any) -> None:
        content = plain(checkpoint)

        def write(file: BinaryIO) -> None:
            torch.save(content, file)
            file.flush()
            read_file(Path(file.name), mapped=True)

        try:
            write_whole(Path(path), write)
        except (OSError, RuntimeError) as error:  # torch's, in C++, if the disk is full
            self.error = OSError(str(error))


def write_checkpoint(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint and its checksum; a file called ``path`` is always complete.

    Raises:
        OSError: If the disk is full or the folder not writable; nothing is left behind.
        ValueError: If it holds objects that are not read again, as reading them would run code.
    """
    strategy, files = trainer.strategy, _WholeCheckpoints()
    usual_files = strategy.checkpoint_io
    strategy.checkpoint_io = files
    try:
        trainer.save_checkpoint(path, weights_only=False)
    finally:
        strategy.checkpoint_io = usual_files
    error = strategy.broadcast(files.error) if trainer.world_size > 1 else files.error
    if error is not None:
        raise error


def _progress_state(total: int, current: int) -> dict[str, Any]:
    """Return the state of Lightning's progress between two batches: all four counts are equal."""
    counts = ("ready", "started", "processed", "completed")
    return {
        "total": dict.fromkeys(counts, total),
        "current": dict.fromkeys(counts, current),
        "is_last_batch": False,
    }
