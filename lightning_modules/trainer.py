"""The trainer of a method, which has none until Lightning runs it."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer


def trainer_of(method: LightningModule) -> Trainer | None:
    """Return the trainer that runs a method; None for a method that is used alone.

    Args:
        method: The method.
    """
    try:
        return method.trainer
    except RuntimeError:  # the only public sign of a method without a trainer
        return None
