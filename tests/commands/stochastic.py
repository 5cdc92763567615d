"""A stochastic method, and callbacks that check `--run.seeds`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from callbacks.metrics.base import ImageMetric
from lightning_modules.base import SuperResolver


class Noisy(SuperResolver):
    """Return the enlarged input plus noise."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise NotImplementedError

    def restore(self, batch: Any, noise: Any) -> Tensor:
        sr = functional.interpolate(batch["lr"], batch["size"], mode="nearest")
        return sr + 0.1 * noise.normal(sr.shape)


@dataclass(frozen=True)
class Sampling:
    """A group of arguments."""

    steps: int = 1
    level: float = 0.1


class InSteps(Noisy):
    """Add noise several times."""

    def __init__(self, scale: float, sampling: Sampling = Sampling()) -> None:
        super().__init__(scale)
        self.sampling = sampling

    def restore(self, batch: Any, noise: Any) -> Tensor:
        sr = functional.interpolate(batch["lr"], batch["size"], mode="nearest")
        for _ in range(self.sampling.steps):
            sr = sr + self.sampling.level * noise.normal(sr.shape)
        return sr


class Input(ImageMetric):
    """The mean of the input, which must be the same for all seeds."""

    name = "input"

    def protocol(self) -> Any:
        return {"implementation": "test"}

    def compute(self, sr: Tensor, hr: Tensor, batch: Any) -> Tensor:
        return batch["lr"].mean((1, 2, 3))
