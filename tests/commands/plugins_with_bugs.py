"""Classes of a user, with typical mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightning.pytorch import Callback
from torch import nn

from datamodules.base import Sample, Source
from lightning_modules.base import SuperResolver

# The message of each mistake.
MESSAGES = {
    "raise": "no images",
    "attribute in the constructor": "has no attribute 'nothing'",
    "zero": "division by zero",
}


class NoScale(nn.Conv2d):
    """A network whose first argument is not the scale."""

    def __init__(self) -> None:
        super().__init__(3, 3, 3, padding=1)


class NeedsBody(nn.Module):
    """A network with a required argument beside the scale.

    Args:
        scale: Scale factor.
        body: Not used.
    """

    def __init__(self, scale: float, body: nn.Module) -> None:
        super().__init__()
        self.body = body


class NoRestore(SuperResolver):
    """A method without its abstract methods."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return a constant loss."""


class Mistaken(Source):
    """Fail in a given way.

    Args:
        mistake: A key of `MESSAGES`.
        root: Not used.
    """

    def __init__(self, mistake: str, root: str = "") -> None:
        super().__init__()
        self.mistake = mistake
        if mistake == "attribute in the constructor":
            self.nothing.there  # noqa: B018

    @property
    def keys(self) -> list[str]:
        return ["a", "b", "c", "d"]

    def read(self, index: int) -> Sample:
        if self.mistake == "raise":
            raise ValueError("no images")
        if self.mistake == "zero":
            1 / 0  # noqa: B018
        return {"hr": np.zeros((32, 32, 3), np.uint8)}


class LogsWhereItMayNot(Callback):
    """Log where Lightning does not allow it: a bug."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.log("a", 1.0)
