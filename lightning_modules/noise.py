"""Noise that belongs to the image: the same field for an image in any batch, on any rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from degradations.draws import seed_of


class Noise:
    """Independent normal fields, one an image, for a sampler to draw from.

    The n-th call gives image i the field of (seed of i, n), whatever else is in the batch. Fields
    are made on the CPU, where they are the same on every machine, and moved.

    Args:
        seeds: (B,) int64, the batch's ``seed``.
        device: Where the fields are wanted.
    """

    def __init__(self, seeds: Tensor, device: torch.device | str = "cpu") -> None:
        self.seeds = [int(seed) for seed in seeds]
        self.device = torch.device(device)
        self.calls = 0
        self._streams: list[Noise] = []

    @property
    def drew(self) -> bool:
        """Whether a field was asked for, here or in one of the streams."""
        return self.calls > 0 or any(stream.drew for stream in self._streams)

    def stream(self, name: str | int) -> Noise:
        """Noise of its own for a part of a method, e.g. a stage of a cascade.

        However many fields other parts ask for, this one's are the same.

        Args:
            name: Of the part.
        """
        seeds = [seed_of(seed, "stream", name) for seed in self.seeds]
        stream = Noise(torch.tensor(seeds, dtype=torch.int64), self.device)
        self._streams.append(stream)
        return stream

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal noise.

        Args:
            shape: (B, ...) of the field; B is the number of seeds.

        Returns:
            (B, ...) float32.

        Raises:
            ValueError: The first dimension is not the number of images.
        """
        if not shape or shape[0] != len(self.seeds):
            raise ValueError(
                f"noise of shape {tuple(shape)} was asked for, expected ({len(self.seeds)}, ...): "
                "one field for each image of the batch"
            )
        fields = []
        for seed in self.seeds:
            generator = torch.Generator().manual_seed(seed_of(seed, "noise", self.calls))
            # The type is said, for Lightning makes half precision the default where it is "true".
            fields.append(torch.randn(shape[1:], generator=generator, dtype=torch.float32))
        self.calls += 1
        return torch.stack(fields).to(self.device)
