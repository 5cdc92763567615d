"""The direction of a monitored value, and the check that everything monitoring it agrees."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer
from torch.optim.lr_scheduler import OneCycleLR

from callbacks.evaluation import all_callbacks
from callbacks.metrics.base import Metric
from commands.errors import ConfigurationError

log = logging.getLogger(__name__)
SCHEDULE = "model.init_args.lr_scheduler"
Direction = Literal["min", "max"]
WORDS = {"max": "higher", "min": "lower"}

# Values that no metric of the trainer logs: those that models log, and our metrics' names, which
# other code logs, too. A test compares them with the metrics.
KNOWN: dict[str, Direction] = {
    **dict.fromkeys(
        (
            *("psnr", "lr_psnr", "ssim", "musiq", "maniqa", "clipiqa"),
            *("topiq_nr", "2afc", "bit_accuracy", "accuracy"),
        ),
        "max",
    ),
    **dict.fromkeys(
        (
            *("lpips", "niqe", "pi", "fid", "kid", "pfid", "pkid", "fvd", "kvd"),
            *("kid_thumb", "swd", "frame_swd", "flicker", "repetition"),
            *("robustness", "loss", "mse", "perceptual", "pixel"),
        ),
        "min",
    ),
}
_STAGE = re.compile(r"(?<![^/])(train|training|val|valid|validation|test)[/_]")
_SUFFIX = re.compile(r"(/dataloader_idx_\d+|_step|_epoch)+$")  # Lightning's own


def direction_of(name: str, callbacks: Iterable[Callback] = ()) -> Direction | None:
    """Return whether higher or lower values of a name are better, or None if unknown.

    Args:
        name: As logged, e.g. ``val/swd``, ``val/set5/swd_2``, ``train/loss_epoch``.
        callbacks: Callbacks of the trainer, whose metrics may have their own names.
    """
    bare = _STAGE.sub("", _SUFFIX.sub("", name), count=1)
    metrics = {metric.name: metric for metric in callbacks if isinstance(metric, Metric)}
    if (own := _nearest(bare, metrics, further="_[^/]+")) is not None:
        higher = metrics[own].is_higher_better(bare[bare.rindex(own) :])
        return None if higher is None else "max" if higher else "min"
    if (
        known := _nearest(bare, KNOWN, further=r"_\d+|_scale_\d+|_static|_from_x[^/]+")
    ) is not None:
        return KNOWN[known]
    return "min" if bare.endswith("_loss") else None


def _nearest(bare: str, names: Iterable[str], further: str) -> str | None:
    # The longest name at the start of a value's name, after an optional dataset name.
    found = [n for n in names if re.search(rf"(^|/){re.escape(n)}({further})?$", bare)]
    return max(found, key=len, default=None)


def check_directions(trainer: Trainer) -> None:
    """Check all that monitor a value: checkpoints, early stopping, plateau schedules and others.

    Args:
        trainer: The trainer, before fit; schedules are checked if they exist by now.

    Raises:
        ConfigurationError: If a mode contradicts the direction of its value.
    """
    callbacks = all_callbacks(trainer)
    for callback in callbacks:
        monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        if isinstance(monitor, str) and mode in WORDS:
            # Our own callback names its group in the configuration.
            key = getattr(callback, "group", f"{type(callback).__name__} in trainer.callbacks")
            _refuse_against(key, monitor, str(mode), callbacks)
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau:
            schedule: Any = config.scheduler
            _refuse_against(SCHEDULE, str(config.monitor), schedule.mode, callbacks)


def warn_of_length(trainer: Trainer) -> None:
    """Warn of a schedule that is made for another number of steps than the training has."""
    for config in trainer.lr_scheduler_configs:
        for name in ("T_max", "steps", "total_steps"):
            length, end = getattr(config.scheduler, name, None), trainer.max_steps
            # Beyond its `steps`, WarmUpCosine keeps the last rate; that of `T_max` rises again.
            unlike = length and 0 < end != length and (name != "steps" or end < length)
            if config.interval == "step" and unlike:
                log.warning(
                    "%s.%s is %d, and the training ends at step %d (trainer.max_steps): set one to "
                    "the other for the whole schedule",
                    *(SCHEDULE, name, length, end),
                )


def check_lengths(trainer: Trainer) -> None:
    """Check schedules that fail later in the run.

    Args:
        trainer: The trainer, with its loaders, and schedules as restored.

    Raises:
        ConfigurationError: If a schedule ends before the training, or steps by a value that no
            validation has measured by then.
    """
    end = trainer.max_steps
    if trainer.lightning_module.automatic_optimization:
        end = int(min(trainer.estimated_stepping_batches, sys.maxsize))
    for config in trainer.lr_scheduler_configs:
        schedule: Any = config.scheduler
        one_cycle = isinstance(schedule, OneCycleLR) and config.interval == "step"
        if one_cycle and schedule.total_steps < end:
            raise ConfigurationError(
                f"{SCHEDULE}, a OneCycleLR, ends at step {schedule.total_steps} (total_steps), and "
                f"the training at step {end}: set one to the other; a resumed run keeps its "
                "schedule, so begin another run with its weights"
            )
        by_epoch = config.reduce_on_plateau and config.interval == "epoch" and config.strict
        if by_epoch and not _is_validated(trainer, epochs=config.frequency):
            raise ConfigurationError(
                f"{SCHEDULE} steps at the end of an epoch by {config.monitor}, and the first one, "
                f"of {trainer.num_training_batches} batches, ends without a validation: set "
                "trainer.val_check_interval to at most that number, and "
                "trainer.check_val_every_n_epoch to 1 or null"
            )


def _is_validated(trainer: Trainer, epochs: int) -> bool:
    """Return whether the first epochs have a validation."""
    batches = trainer.num_training_batches
    if not trainer.enable_validation:
        return False
    every: Any = trainer.check_val_every_n_epoch
    if every is not None:
        return bool(every <= epochs)
    due: Any = trainer.val_check_batch
    return bool(due <= epochs * batches)


def _refuse_against(key: str, monitor: str, mode: str, callbacks: Iterable[Callback]) -> None:
    known = direction_of(monitor, callbacks)
    if known in (None, mode):
        return
    fix = "remove checkpoint.mode" if key == "checkpoint" else f"set its mode to {known}"
    raise ConfigurationError(
        f"{key} monitors {monitor} with mode {mode}, but {WORDS[known]} values of {monitor} are "
        f"better: {fix}"
    )
