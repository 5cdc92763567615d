"""A recipe with the argument `pool`."""

from __future__ import annotations

from degradations.pipeline import Pipeline
from degradations.stages.noise import GaussianNoise


class Pooled(Pipeline):
    """Noise of one level per image, and a pair pool.

    Args:
        scale: The scale.
        pool: Number of pairs.
        quantize: Round LR.
    """

    def __init__(self, scale: float, pool: int = 8, quantize: bool = True) -> None:
        super().__init__(scale, [GaussianNoise()], quantize=quantize)
        self.pool = pool
