"""Checkpoints, and counters that resume exactly.

Lightning can save at many points of its loops (after a batch, in a validation, after an exception).
Each leaves its counters in another state, and some resume one batch off. Here a due checkpoint
is written at the start of the next batch, when everything of the step before (validation,
schedules, EMA) is done, and its counters are set to the form that resumes exactly: the number of
finished steps of this epoch.

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
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, GradientAccumulationScheduler

from callbacks.evaluation import accumulated, all_callbacks
from callbacks.metrics.base import Metric
from commands.arguments.saved_config import as_yaml, flat
from commands.errors import did_you_mean
from commands.lightning_internals import logging_at_step_before, set_logged_step
from commands.run.files import (
    CONFIG,
    FOLDER,
    WEIGHTS,
    is_whole,
    list_checkpoints,
    read_ranking,
    write_atomically,
    write_whole,
)
from commands.run.objects import measured_objects, optimiser_options, warn_of_other_options
from commands.signals import Stopped
from datamodules.order.keys import digest_of
from files.checksums import checksum_of
from files.method import method_of
from files.numbers import NonNegativeFloat, NonNegativeInt, PositiveInt
from files.owned import remove_file
from files.weights import plain, read_file
from lightning_modules.loading import Loaded

log = logging.getLogger(__name__)

PSNR = "val/psnr"

# Settings, beside the metrics, without which scores cannot be compared.
MEASURED = (
    "data.init_args.val",
    "data.init_args.degradation_seed",
    "degradation",
    "trainer.limit_val_batches",
    "tiling.size",
    "tiling.overlap",
    "tiling.window",
)


def batches_done(trainer: Trainer) -> int:
    """Return the number of finished batches of this epoch."""
    # Lightning's `ready` is one ahead within a step, and `completed` one behind at its end.
    return int(vars(trainer.fit_loop.epoch_loop.batch_progress.current)["processed"])


def gradients_pending(trainer: Trainer) -> bool:
    """Return whether an accumulation is unfinished: checkpoints hold no gradients."""
    done = batches_done(trainer)
    last = done >= trainer.num_training_batches
    return not last and done % accumulated(trainer) != 0


def follow_schedule(trainer: Trainer) -> None:
    """Apply accumulation schedules to an epoch that a resumed run continues in its middle.

    Lightning only calls them at the start of an epoch.

    Args:
        trainer: The trainer, before training.
    """
    for callback in all_callbacks(trainer):
        if isinstance(callback, GradientAccumulationScheduler):
            callback.on_train_epoch_start(trainer)


def correct_logged_step(trainer: Trainer, pl_module: LightningModule) -> None:
    """Let the step at which values are logged be that of the weights, between two steps.

    Lightning's is off by one after some resumes.
    """
    if pl_module.automatic_optimization or method_of(pl_module).batches_per_step is not None:
        set_logged_step(trainer)


def monitored_values(trainer: Trainer) -> dict[str, float]:
    """Return the latest of each monitored value, by name; without those not logged yet."""
    names = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
    names |= {c.monitor for c in all_callbacks(trainer) if isinstance(c, EarlyStopping)}
    logged = trainer.callback_metrics
    return {name: float(logged[name]) for name in sorted(map(str, names)) if name in logged}


def better_values(monitor: str, trainer: Trainer) -> Literal["min", "max"] | None:
    """Return whether higher or lower values of a logged name are better; None if unknown.

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


class Checkpoints(Checkpoint):
    """Write checkpoints to ``<run>/checkpoints``, keep the last and the best.

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
    on_before_zero_grad = on_before_backward = on_after_backward = None  # type: ignore[assignment]
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
        # Set by the command line:
        self.resumed_from: Path | None = None
        self.config: dict[str, Any] | None = None
        self._due = False
        self._value: float | None = None  # monitored value of the current weights
        self._written: set[str] = set()  # checkpoints of this run, by name
        self._saved_step = -1
        self._saved_at = time.monotonic()
        # False while weights, schedules and counters do not belong to one finished step:
        self._is_step_finished = True
        self._position: tuple[int, int] | None = None  # (epoch, its finished batches)
        self._before: dict[str, Any] = {}  # logged values when the validation began
        self._direction = mode
        self._warned = False  # of the monitored value, if it had to be
        self._measured = ""  # digest of the images that are validated, and of the metrics
        self.off = False  # True if nothing more is to be written
        self._validation_due = False  # True after an interrupted validation
        self._monitored: dict[str, float] = {}  # values logged before the run was resumed
        self._limits: tuple[int, int | None] | None = None  # on steps and epochs, while lifted
        # Of the optimisers, before a checkpoint's:
        self._configured_options: list[dict[str, str]] = []
        self._stops = False  # at the end of the accumulation

    # -------------------------------------------------------------------------------- when to write

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder, and which values are better."""
        self.folder = Path(trainer.default_root_dir) / FOLDER
        self._direction = self.mode or better_values(self.monitor, trainer)
        if self.keep_best is None:
            uses_last = method_of(pl_module).uses_last_weights and self.monitor == PSNR
            self.keep_best = 0 if uses_last else 1
        self.off |= bool(vars(trainer)["fast_dev_run"])  # a dry run writes nothing

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lift the limits on steps and epochs for a validation that was interrupted.

        If it was the last one, Lightning would not begin a training that has nothing left to do.
        """
        self._configured_options = optimiser_options(trainer)
        if self._validation_due and not self.off:
            loop = trainer.fit_loop
            self._limits = loop.max_steps, loop.max_epochs
            loop.epoch_loop.max_steps = loop.max_epochs = -1

    def restore_limits(self, trainer: Trainer) -> None:
        """Restore the limits; ``SavesLast`` calls it before other callbacks read them."""
        if self._limits is not None:
            loop = trainer.fit_loop
            loop.epoch_loop.max_steps, loop.max_epochs = self._limits
            self._limits = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the configuration, and restore what Lightning does not."""
        if trainer.is_global_zero and self.config is not None:
            # Only now: every rank has compared its configuration with the saved one, and the
            # checkpoint was accepted.
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            content = as_yaml(self.config)
            write_atomically(self.folder.parent / CONFIG, content.encode())
            if isinstance(pl_module, Loaded) and pl_module.partly_loaded:
                record = json.dumps(pl_module.partly_loaded, indent=2)
                write_atomically(self.folder.parent / WEIGHTS, record.encode())
        if self.config is None:  # else the configuration was compared
            warn_of_other_options(self._configured_options, optimiser_options(trainer))
        ranking = read_ranking(self.folder)
        self._measured = self._measurement(trainer)
        self._written = {*ranking.get("written", ())}
        if self.resumed_from is not None and self.resumed_from.parent == self.folder:
            self._written.add(self.resumed_from.name)  # killed before the list was written
        if not self._is_comparable(ranking):
            log.warning(
                "best.json has scores of other images or metrics, which are ignored from now on"
            )
            self._written -= {*ranking["best"]}  # so they are not removed
        self._saved_step = trainer.global_step if self.resumed_from else -1
        self._saved_at = time.monotonic()
        device = trainer.strategy.root_device
        for name, value in self._monitored.items():
            trainer.callback_metrics[name] = torch.tensor(value, device=device)
        follow_schedule(trainer)
        if self._validation_due and not self.off:
            log.info("the interrupted validation runs first")
            ends_epoch = batches_done(trainer) == 0
            run_validation(trainer, ends_epoch)
            for callback in all_callbacks(trainer) if ends_epoch else ():
                if isinstance(callback, EarlyStopping):  # by default it waits for the epoch's end
                    callback.on_train_epoch_end(trainer, pl_module)
            self._note(trainer, pl_module)
            self._validation_due = False
            self._saved_step = -1  # this step's checkpoint has it as due

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write a due checkpoint: the step before is complete, and the next one has not begun."""
        self._note(trainer, pl_module)
        self.save_due(trainer)

    def save_due(self, trainer: Trainer) -> None:
        """Write a due checkpoint at the start of an epoch, which a resumed run starts again."""
        if self._due and not gradients_pending(trainer):
            self.save(trainer)

    def save_between(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last checkpoint of a run that stops at the start of a batch.

        Raises:
            OSError: If it could not be written.
        """
        self._note(trainer, pl_module)
        if self._due or trainer.global_step != self._saved_step:
            self.save(trainer, final=True)

    def _note(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._position = (trainer.current_epoch, batches_done(trainer))
        correct_logged_step(trainer, pl_module)

    def on_before_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Note that the weights are ahead of the counters until the end of the batch."""
        self._is_step_finished = False

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Note the position, and decide whether a checkpoint is due."""
        epoch = trainer.current_epoch
        batches = batches_done(trainer)
        if batches >= trainer.num_training_batches:
            self._position = (epoch + 1, 0)
        else:
            self._position = (epoch, batches)
        self._is_step_finished = True
        if self._hold(trainer):
            return
        if self._stops:
            self._stops = False
            trainer.should_stop = True
        self._value = None
        step = trainer.global_step
        if self.every_n_steps and step > 0 and step != self._saved_step:
            self._due |= step % self.every_n_steps == 0
        if self.every_n_minutes:
            self._due |= self._is_late(trainer)

    def _is_late(self, trainer: Trainer) -> bool:
        """Return whether the last checkpoint is ``every_n_minutes`` old, by the first clock."""
        is_late = time.monotonic() - self._saved_at >= 60 * self.every_n_minutes
        if trainer.world_size == 1:
            return is_late
        if trainer.global_step % max(1, vars(trainer)["log_every_n_steps"]):
            return False
        return bool(trainer.strategy.broadcast(is_late))

    def _hold(self, trainer: Trainer) -> bool:
        # Within an accumulation nothing could be saved: a timer's stop waits for its end.
        is_pending = gradients_pending(trainer)
        if is_pending and trainer.should_stop:
            self._stops = True
            trainer.should_stop = False
        return is_pending

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the values so far: Lightning keeps those that this validation does not log."""
        # Early stopping and schedules may read the old ones, and fail without them.
        self._before = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the monitored value; a validated checkpoint is due, as it may be the best."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        logged = {
            name: value
            for name, value in trainer.callback_metrics.items()
            if value is not self._before.get(name)
        }
        value = logged.get(self.monitor)
        self._value = None if value is None else float(value)
        if not self._hold(trainer):
            self._due = True
        elif self._value is not None:
            log.warning(
                "the validation after step %d ran within an accumulation of %d batches, where no "
                "checkpoint can be written: its %s is not ranked; set trainer.val_check_interval "
                "to a multiple",
                trainer.global_step,
                accumulated(trainer),
                self.monitor,
            )
        if self.keep_best and not self._warned:
            self._warn_of_monitor([name for name in logged if name.startswith("val/")])

    def _warn_of_monitor(self, logged: list[str]) -> None:
        """Warn once if checkpoints are not ranked, or it is unknown which are better.

        Args:
            logged: Names of what the validation logged.
        """
        if self._value is not None and self._direction is None:
            log.warning(
                "checkpoint.monitor is %r, and it is unknown whether larger values are better: the "
                "largest counts as the best; set checkpoint.mode to max or min",
                self.monitor,
            )
        if self._value is None and logged:
            log.warning(
                "checkpoint.monitor is %r, which this validation did not log, so no checkpoint is "
                "ranked as best%s; logged: %s",
                self.monitor,
                did_you_mean(self.monitor, logged),
                ", ".join(logged),
            )
        self._warned = self._value is not None or bool(logged)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make a continued epoch end as any other: else plateau schedules are skipped once."""
        trainer.fit_loop.on_iteration_done()

    def save_last(self, trainer: Trainer) -> None:
        """Write the last checkpoint of a training that ends; ``Stops`` calls it before others.

        Raises:
            OSError: If it could not be written.
        """
        if self._position is None or not self._is_step_finished or gradients_pending(trainer):
            return
        if self._due or trainer.global_step != self._saved_step:
            self.save(trainer, final=True)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write the last complete step, unless there is none or it is written already."""
        if self.off or trainer.state.fn != "fit" or self._position is None:
            return
        if isinstance(exception, Stopped):
            if exception.in_validation and self._is_step_finished:  # all processes stop here
                self._validation_due = True
                self._saved_step = -1  # the checkpoint of this step does not record it
                self.save(trainer, final=True)
            return
        if trainer.global_step == self._saved_step:
            return
        if trainer.world_size > 1:
            log.error(
                "stopped by an exception; other ranks may not have seen it, so no checkpoint is "
                "written"
            )
        elif not self._is_step_finished or gradients_pending(trainer) or self._ends_epoch(trainer):
            log.error(
                "stopped in the middle of a step, or at an epoch's end, which cannot be resumed "
                "from there: the previous checkpoint remains"
            )
        else:
            self._validation_due = bool(trainer.validating)
            self.save(trainer)

    def _ends_epoch(self, trainer: Trainer) -> bool:
        # Between the last batch, with its validation, and the next epoch: schedules and early
        # stopping may not have seen the end of this one.
        begins = self._position is not None and self._position[0] > trainer.current_epoch
        return begins and not trainer.validating

    # ------------------------------------------------------------------------------ what is written

    def state_dict(self) -> dict[str, Any]:
        """Return whether a validation is due; ``on_save_checkpoint`` adds monitored values."""
        return {"validation_due": True} if self._validation_due else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts."""
        self._validation_due = bool(state_dict.get("validation_due", False))
        self._monitored = state_dict.get("awaited", {})

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set the counters to the form that resumes exactly, wherever Lightning's loop is."""
        values = monitored_values(trainer)
        if values:
            checkpoint["callbacks"].setdefault(self.state_key, {})["awaited"] = values
        if self._position is None:
            return
        epoch, batches = self._position
        loop = checkpoint["loops"]["fit_loop"]
        done = vars(trainer.fit_loop.epoch_loop.batch_progress.total)["processed"]
        loop["epoch_loop.batch_progress"] = _progress(done, batches)
        begun = epoch + 1 if batches else epoch
        counts = {"ready": begun, "started": begun, "processed": epoch, "completed": epoch}
        loop["epoch_progress"] = {"total": dict(counts), "current": dict(counts)}
        loop["epoch_loop.val_loop.batch_progress"] = _progress(0, 0)
        checkpoint["epoch"] = epoch

    def save(self, trainer: Trainer, final: bool = False) -> None:
        """Write one checkpoint; earlier ones are kept until it is complete.

        Args:
            trainer: The trainer; all ranks call this together.
            final: Whether the run ends with it, so that a failure must raise.

        Raises:
            OSError: If the final checkpoint could not be written.
        """
        if self.off:
            return
        step = trainer.global_step
        path = self.folder / f"step-{step:09d}.ckpt"
        # A step that is already written (and validated only now) is only ranked again.
        is_written = step == self._saved_step and is_whole(path)
        if trainer.world_size > 1:
            is_written = bool(trainer.strategy.broadcast(is_written))
        try:
            if not is_written:
                write_checkpoint(trainer, path)
        except OSError as error:
            self._report(path, error, final)
        else:
            self._saved_step = step
            if trainer.is_global_zero:
                self._rank(path.name)
        self._saved_at = time.monotonic()
        self._due = False

    def _report(self, path: Path, error: OSError, final: bool) -> None:
        present = ", ".join(p.name for p in list_checkpoints(self.folder)) or "none"
        message = f"{path} could not be written ({error}); kept: {present}"
        if final:
            self.off = True  # or `on_exception` would try again
            raise OSError(message) from error
        log.error("%s. Training continues and tries again at the next checkpoint.", message)

    def _rank(self, name: str) -> None:
        """Write ``best.json``, and remove checkpoints that are neither the newest nor the best.

        Those that this run did not write are neither ranked nor removed.

        Args:
            name: The checkpoint of the current weights.
        """
        self._written.add(name)
        names = [p.name for p in list_checkpoints(self.folder) if p.name in self._written]
        present = [each for each in names if each <= name]
        # The run would have resumed from a later one if it were complete.
        damaged = [each for each in names if each > name and not is_whole(self.folder / each)]
        ranking = read_ranking(self.folder)
        scores = ranking.get("scores", {}) if self._is_comparable(ranking) else {}
        if self._value is not None and math.isfinite(self._value):
            scores[name] = self._value
        scores = {each: score for each, score in scores.items() if each in present}
        mode = self._direction or "max"
        best = sorted(scores, key=lambda each: (scores[each], each), reverse=mode == "max")
        best = best[: self.keep_best]
        remaining = {*present[: self.keep_last], *best}
        removed = [*damaged, *(each for each in present if each not in remaining)]
        ranking = {
            "monitor": self.monitor,
            "measured": self._measured,
            "mode": mode,
            "best": best,
            "scores": {each: score for each, score in scores.items() if each in remaining},
            "written": sorted({*names} - {*removed}),
        }
        try:
            write_atomically(self.folder / "best.json", json.dumps(ranking, indent=2).encode())
        except OSError as error:
            log.error("%s/best.json could not be written (%s)", self.folder, error)
            return
        for each in removed:
            remove_file(self.folder / each)
            remove_file(checksum_of(self.folder / each))

    def _is_comparable(self, ranking: dict[str, Any]) -> bool:
        # Rankings of earlier versions do not say what was measured.
        is_same_monitor = ranking.get("monitor", self.monitor) == self.monitor
        return is_same_monitor and ranking.get("measured", self._measured) == self._measured

    def _measurement(self, trainer: Trainer) -> str:
        if self.config is None:  # in Python
            return digest_of(measured_objects(trainer))
        settings = flat(self.config)
        measured = [item for item in settings.items() if item[0].startswith(MEASURED)]
        names = {type(c).__name__ for c in all_callbacks(trainer) if isinstance(c, Metric)}
        callbacks = settings.get("trainer.callbacks") or []
        metrics = [c for c in callbacks if c["class_path"].rpartition(".")[2] in names]
        return digest_of([as_yaml([measured, metrics])])


class SavesLast(Callback):
    """Let ``Checkpoints`` save at the end, before other callbacks change the weights.

    A training that was never validated is validated first. This callback stands first, while
    Lightning puts those that save last.
    """

    def __init__(self) -> None:
        self._validated = False  # whether this run was, also before it was resumed
        self._at: int | None = None  # step of the last validation, if known

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint."""
        return "SavesLast"

    def state_dict(self) -> dict[str, Any]:
        """Return whether the run was validated, and after which step last."""
        return {"validated": True, "step": self._at} if self._validated else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore whether the run was validated, and when."""
        self._validated = bool(state_dict["validated"])
        self._at = state_dict.get("step")  # which earlier versions did not note

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note a validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated, self._at = True, trainer.global_step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the limits that were lifted."""
        for checkpoints in checkpoints_of(trainer):
            checkpoints.restore_limits(trainer)

    def on_train_epoch_start(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Save before other callbacks begin the epoch, and correct the step before they log."""
        correct_logged_step(trainer, pl_module)
        for checkpoints in checkpoints_of(trainer):
            checkpoints.save_due(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Correct the step before other callbacks log at it."""
        correct_logged_step(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if training ends within an epoch, which a continued run does not end here."""
        if batches_done(trainer) < trainer.num_training_batches:
            validated, at = self._validated, self._at
            if trainer.enable_validation and not validated:  # which on_train_end makes up for
                self._validated = True
                self._at = trainer.global_step
            self._save_last(trainer)
            self._validated, self._at = validated, at

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before other callbacks change the weights, as averages do."""
        # The first process decides: another one may have had no image to validate.
        if trainer.enable_validation and not trainer.strategy.broadcast(self._validated):
            run_validation(trainer, ends_epoch=False)
        elif self._at not in (None, trainer.global_step):
            log.warning(
                "the weights of step %d were not validated, the last that were are those of step "
                "%d: test takes the best of these (checkpoint.keep_best), or --ckpt_path",
                trainer.global_step,
                self._at,
            )
        self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        for checkpoints in checkpoints_of(trainer):
            checkpoints.save_last(trainer)


def checkpoints_of(trainer: Trainer) -> list[Checkpoints]:
    """Return the trainer's ``Checkpoints``, of which there is one at most."""
    return [c for c in trainer.checkpoint_callbacks if isinstance(c, Checkpoints)]


def is_foreign_checkpoint_callback(callback: Callback) -> bool:
    """Return whether a callback saves by itself; it must follow ours, which sets the counters."""
    return isinstance(callback, Checkpoint) and not isinstance(callback, Checkpoints)


def run_validation(trainer: Trainer, ends_epoch: bool) -> None:
    """Validate within ``fit``, as Lightning does after a step; ``Trainer.validate`` cannot.

    Args:
        trainer: The trainer, between two steps.
        ends_epoch: Whether the validation is the one at the end of an epoch.
    """
    loop = trainer.fit_loop.epoch_loop
    trainer.validating = True
    loop.val_loop.restarting = False
    correct_logged_step(trainer, trainer.lightning_module)
    with logging_at_step_before(trainer):
        loop.val_loop.run()
    trainer.training = True
    loop.update_lr_schedulers("step", update_plateau_schedulers=True)
    if ends_epoch:
        loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)


class _WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint and its checksum; keeps an error for the other processes."""

    error: OSError | ValueError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, *_: Any, **__: Any) -> None:
        content = plain(checkpoint)

        def write(file: BinaryIO) -> None:
            torch.save(content, file)
            file.flush()
            read_file(Path(file.name), mapped=True)

        try:
            write_whole(Path(path), write)
        except OSError as error:
            self.error = OSError(str(error))
        except ValueError as error:
            self.error = ValueError(
                f"the checkpoint {error}. Keep only numbers, texts, tensors, lists and "
                "dictionaries in the state of callbacks, schedules and optimisers"
            )


def write_checkpoint(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint and its checksum; a file called ``path`` is always complete.

    Raises:
        OSError: If the disk is full or the folder not writable; nothing is left behind.
        ValueError: If it holds objects that are not read again, as reading them would run code.
    """
    strategy, files = trainer.strategy, _WholeFiles()
    usual_files = strategy.checkpoint_io
    strategy.checkpoint_io = files
    try:
        trainer.save_checkpoint(path, weights_only=False)
    finally:
        strategy.checkpoint_io = usual_files
    error = strategy.broadcast(files.error) if trainer.world_size > 1 else files.error
    if error is not None:
        raise error


def _progress(total: int, current: int) -> dict[str, Any]:
    counts = ("ready", "started", "processed", "completed")
    return {
        "total": dict.fromkeys(counts, total),
        "current": dict.fromkeys(counts, current),
        "is_last_batch": False,
    }
