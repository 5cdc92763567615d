"""Trainer options that a method replaces with its own, or does not support."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BackboneFinetuning

from callbacks.evaluation import all_callbacks
from commands.errors import ConfigurationError
from lightning_modules.image_model import ImageModel

# The trainer's option: the method's own, and the trainer's default.
OWN = {"gradient_clip_val": ("clip", None), "accumulate_grad_batches": ("accumulate", 1)}


def check_own_options(model: ImageModel, trainer: Trainer) -> None:
    """Raise for trainer options that the method replaces or does not support.

    Args:
        model: The model.
        trainer: The trainer.

    Raises:
        ConfigurationError: If such an option is set; the message names the method's own.
    """
    name = type(model).__name__
    if not hasattr(model, "backbone") and any(
        isinstance(callback, BackboneFinetuning) for callback in all_callbacks(trainer)
    ):
        raise ConfigurationError(
            f"trainer.callbacks has a BackboneFinetuning, but {name} has no attribute backbone "
            "that it could freeze: remove it"
        )
    if model.automatic_optimization:
        return
    for flag, (own, default) in OWN.items():
        value = getattr(trainer, flag)
        if value not in (default, 0) and hasattr(model, own):
            raise ConfigurationError(
                f"trainer.{flag} is {value}, and {name} steps its two optimisers "
                f"itself: set model.init_args.{own} instead, and remove trainer.{flag}"
            )
