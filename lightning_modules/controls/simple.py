"""Controls without training: bicubic, and the round trip of an autoencoder.

A method in latents cannot exceed the round trip of HR, and should exceed the
round trip of bicubic.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from degradations.bicubic import resize
from files.batch import Batch, boxes_of
from lightning_modules.backbone.space import Space
from lightning_modules.base import NothingToTrain, SuperResolver
from lightning_modules.frozen import is_random
from lightning_modules.latents import InLatents, whole_lr
from lightning_modules.noise import Noise


class Bicubic(NothingToTrain, SuperResolver):
    """Enlarge with the cubic kernel of MATLAB and Pillow (a = -0.5).

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
    """

    def __init__(self, scale: float) -> None:
        super().__init__(scale)

    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Interpolate."""
        return resize(batch["lr"], batch["size"], boxes=boxes_of(batch))


class RoundTrip(NothingToTrain, InLatents, SuperResolver):
    """Encode and decode an image; only for tests, and to encode latents.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        space: The autoencoder.
        of: Its input: ``hr``, or the ``bicubic`` enlargement of LR.
        space_weights: Weights of the autoencoder, unless ``space`` sets them: a run of
            ``Autoencoder``, its authors' file, or a name of ``configs/weights.yaml``.
    """

    latent_pairs = True

    def __init__(
        self,
        scale: float,
        space: Space,
        of: Literal["hr", "bicubic"] = "bicubic",
        space_weights: str | None = None,
    ) -> None:
        super().__init__(scale, space_weights=space_weights)
        self.space = space
        self.of = of
        self.tile_multiple = whole_lr(space.factor, self.scale)
        self.weights_source = space.source or None

    @property
    def needs_weights(self) -> bool:
        """Whether the autoencoder's weights are missing."""
        return is_random(self.space)

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs, with what goes through."""
        return {**super().output_settings, "of": self.of}

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load the autoencoder's weights."""
        super().load_parts(find)
        self.weights_source = self.space.source or None

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Encode and decode; deterministic."""
        H, W = batch["size"]
        if self.of == "hr":
            image = batch["hr"]
        else:
            image = resize(batch["lr"], (H, W), boxes=boxes_of(batch))
        # Encoders take sides that are multiples of their factor.
        below, right = (-n % self.space.factor for n in (H, W))
        padded = functional.pad(image, (0, right, 0, below), mode="replicate")
        return self.space.decode(self.space.encode(padded))[..., :H, :W]
