"""A stochastic method, and a metric of its input, which must be the same for all seeds."""

from torch.nn import functional

from callbacks.metrics.base import ImageMetric
from lightning_modules.base import SuperResolver


class Noisy(SuperResolver):
    """Return the enlarged input plus noise."""

    def training_step(self, batch, batch_idx):
        raise NotImplementedError

    def restore(self, batch, noise):
        sr = functional.interpolate(batch["lr"], batch["size"], mode="nearest")
        return sr + 0.1 * noise.normal(sr.shape)


class Input(ImageMetric):
    """The mean of the input."""

    name = "input"

    def protocol(self):
        return {"implementation": "test"}

    def compute(self, sr, hr, batch):
        return batch["lr"].mean((1, 2, 3))
