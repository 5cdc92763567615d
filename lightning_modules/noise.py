"""Noise that belongs to the image: the same field for an image in any batch, on any rank."""

from __future__ import annotations

import math
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
        # The type is said, for Lightning makes half precision the default where it is "true".
        fields = torch.empty(tuple(shape), dtype=torch.float32)
        generator = torch.Generator()
        for seed, field in zip(self.seeds, fields, strict=True):
            field.normal_(generator=generator.manual_seed(seed_of(seed, "noise", self.calls)))
        self.calls += 1
        return fields.to(self.device)


def augmented(lr: Tensor, probability: float, level: float) -> tuple[Tensor, Tensor]:
    """Noise on some training inputs, for networks that will be given another network's output.

    Conditioning augmentation of cascaded diffusion (Ho et al., 2022; arXiv 2106.15282), drawn from
    torch's generator, as all that belongs to training.

    Args:
        lr: (B, 3, h, w) in [0, 1].
        probability: Share of the inputs that get noise.
        level: Its greatest standard deviation, for values in [-1, 1].

    Returns:
        The inputs, not clamped, and (B,) standard deviations, for values in [-1, 1].
    """
    drawn = torch.rand(2, len(lr), device=lr.device)
    levels = level * drawn[0] * (drawn[1] < probability)
    return lr + levels.view(-1, 1, 1, 1) / 2 * torch.randn_like(lr), levels


def check_augmentation(probability: float, level: float) -> None:
    """Refuse what ``augmented`` cannot draw.

    Raises:
        ValueError: With the argument's name.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"noise_probability is {probability}; expected a share from 0 to 1")
    if not 0 <= level < math.inf:
        raise ValueError(f"noise_level is {level}; expected a deviation of at least 0")
