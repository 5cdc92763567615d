"""HR or bicubic through an autoencoder: upper and lower reference of methods in latents.

Nothing is trained. A method in latents cannot exceed the round trip of HR, and should exceed the
round trip of bicubic.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from degradations.bicubic import resize
from lightning_modules.backbone.space import Space
from lightning_modules.base import SuperResolver
from lightning_modules.noise import Noise

if TYPE_CHECKING:
    from datamodules.base import Batch

Image = Literal["hr", "bicubic"]


class RoundTrip(SuperResolver):
    """Encode and decode an image; only for tests.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        space: The autoencoder.
        of: Its input: ``hr``, or the ``bicubic`` enlargement of LR.
        space_weights: Weights of the autoencoder, unless ``space`` sets them: a run that trained
            it, a file, or a name of ``configs/weights.yaml``.

    Raises:
        ValueError: If ``of`` is neither.
    """

    def __init__(
        self,
        scale: float,
        space: Space,
        of: Image = "bicubic",
        space_weights: str | None = None,
    ) -> None:
        super().__init__(scale)
        if of not in get_args(Image):
            raise ValueError(f"model.init_args.of is {of!r}; expected hr or bicubic")
        self.space, self.of, self.space_weights = space, of, space_weights
        self.weights_source = space.source or None

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load the autoencoder's weights."""
        if self.space_weights is not None:
            self.space.load_official(find("space_weights", self.space_weights))
            self.weights_source = self.space.source

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Raise: there is nothing to train.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "RoundTrip has nothing to train: use test, or another model.class_path for fit"
        )

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Encode and decode; deterministic.

        Raises:
            ValueError: If HR is required and missing.
        """
        if self.of == "hr" and "hr" not in batch:
            raise ValueError("the round trip of HR needs HR: use test, or set model.init_args.of")
        H, W = batch["size"]
        image = batch["hr"] if self.of == "hr" else resize(batch["lr"], (H, W))
        below, right = (-n % self.space.factor for n in (H, W))
        padded = functional.pad(image, (0, right, 0, below), mode="replicate")
        return self.space.decode(self.space.encode(padded))[..., :H, :W]
