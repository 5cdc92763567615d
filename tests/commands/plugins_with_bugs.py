"""Classes of a user, with typical mistakes."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from torch import nn

from datamodules.base import Sample, Source


class NeedsBody(nn.Module):
    """A network with a required argument beside the scale.

    Args:
        scale: Scale factor.
        body: Not used.
    """

    def __init__(self, scale: float, body: nn.Module) -> None:
        super().__init__()
        self.body = body


class Mistaken(Source):
    """Fail in a given way.

    Args:
        mistake: `raise`, `zero` or `attribute`, in the constructor.
    """

    def __init__(self, mistake: str) -> None:
        super().__init__()
        self.mistake = mistake
        if mistake == "attribute":
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


class Spoil(Callback):
    """Set a weight to NaN."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        with torch.no_grad():
            next(pl_module.parameters()).fill_(torch.nan)
