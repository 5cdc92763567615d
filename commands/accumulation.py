"""Finished batches and steps of an epoch, and unfinished accumulations of gradients."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from callbacks.evaluation import accumulated, all_callbacks
from commands.lightning_internals import validates_this_epoch


def batches_done(trainer: Trainer) -> int:
    """Return the number of finished batches of this epoch."""
    # Lightning's `ready` is one ahead within a step, and `completed` one behind at its end.
    return int(vars(trainer.fit_loop.epoch_loop.batch_progress.current)["processed"])


def next_position(epoch: int, batches: int, trainer: Trainer) -> tuple[int, int]:
    """Return epoch and finished batches after some batches of an epoch."""
    return (epoch + 1, 0) if batches >= trainer.num_training_batches else (epoch, batches)


def gradients_pending(trainer: Trainer) -> bool:
    """Return whether an accumulation is unfinished: checkpoints hold no gradients."""
    done = batches_done(trainer)
    last = done >= trainer.num_training_batches
    return not last and done % accumulated(trainer) != 0


def validated_within(trainer: Trainer) -> bool:
    """Return whether a validation runs before the next step, within its accumulation.

    No exact checkpoint can be written there; its weights are the present ones.

    Args:
        trainer: The trainer, between two steps.
    """
    every, together = vars(trainer)["val_check_batch"], accumulated(trainer)
    if together == 1 or not isinstance(every, int) or trainer.global_step == 0:
        return False
    done = batches_done(trainer)
    left = min(together, trainer.num_training_batches - done)  # an epoch's last batch is a step
    through = trainer.check_val_every_n_epoch is None  # counted on from epoch to epoch
    count = (
        int(vars(trainer.fit_loop.epoch_loop.batch_progress.total)["processed"])
        if through
        else done
    )
    due = any((count + n) % every == 0 for n in range(1, int(left)))
    return due and validates_this_epoch(trainer)


def follow_schedule(trainer: Trainer) -> None:
    """Apply accumulation schedules to an epoch that a resumed run continues in its middle.

    Lightning only calls them at the start of an epoch.

    Args:
        trainer: The trainer, before training.
    """
    for callback in all_callbacks(trainer):
        if isinstance(callback, GradientAccumulationScheduler):
            callback.on_train_epoch_start(trainer)
