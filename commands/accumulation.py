"""Batches and steps: what of an epoch is done, and what within an accumulation is not."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from callbacks.base import accumulated, all_callbacks
from commands.lightning_internals import validates_this_epoch


def batches_done(trainer: Trainer) -> int:
    """Batches of this epoch whose step is done."""
    # Of Lightning's counts, `ready` is one ahead within a step and `completed` one behind at its
    # end.
    return int(vars(trainer.fit_loop.epoch_loop.batch_progress.current)["processed"])


def next_position(epoch: int, batches: int, trainer: Trainer) -> tuple[int, int]:
    """The epoch that so many batches of one lead to, and the batches of it that are done."""
    return (epoch + 1, 0) if batches >= trainer.num_training_batches else (epoch, batches)


def gradients_pending(trainer: Trainer) -> bool:
    """Whether an accumulation is unfinished: its gradients are in no checkpoint."""
    done = batches_done(trainer)
    last = done >= trainer.num_training_batches
    return not last and done % accumulated(trainer) != 0


def validated_within(trainer: Trainer) -> bool:
    """Whether a validation comes before the next step, within its accumulation.

    Nothing exact could be saved there, and its weights are those of now.

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
    """Accumulate as the schedule says for this epoch, also where the run goes on in its middle.

    Lightning tells it when an epoch begins, and not of one that has begun in another process.

    Args:
        trainer: About to train; what checks its arguments has done so.
    """
    for callback in all_callbacks(trainer):
        if isinstance(callback, GradientAccumulationScheduler):
            callback.on_train_epoch_start(trainer)
