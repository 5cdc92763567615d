"""What of a trainer a method does itself, or cannot do."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BackboneFinetuning

from callbacks.evaluation import all_callbacks
from commands.errors import ConfigurationError
from lightning_modules.image_model import ImageModel

# By the trainer's name for it: the method's own, and the value that says nothing.
OWN = {"gradient_clip_val": ("clip", None), "accumulate_grad_batches": ("accumulate", 1)}


def check_own_options(model: ImageModel, trainer: Trainer) -> None:
    """See that what the method does itself, or lacks, is not asked of the trainer.

    Args:
        model: As configured.
        trainer: As configured.

    Raises:
        ConfigurationError: It is; the message names the method's own option.
    """
    name = type(model).__name__
    if not hasattr(model, "backbone") and any(
        isinstance(callback, BackboneFinetuning) for callback in all_callbacks(trainer)
    ):
        raise ConfigurationError(
            f"trainer.callbacks has a BackboneFinetuning, but {name} has no attribute backbone "
            "that it could freeze: leave it out"
        )
    if model.automatic_optimization:
        return
    for flag, (own, nothing) in OWN.items():
        value = getattr(trainer, flag)
        if value not in (nothing, 0) and hasattr(model, own):
            raise ConfigurationError(
                f"trainer.{flag} is {value}, and {name} steps its two optimisers "
                f"itself: set model.init_args.{own} instead, and leave trainer.{flag} out"
            )
