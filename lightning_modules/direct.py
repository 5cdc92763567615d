"""Direct inference: a diffusion model samples larger images than it was trained for.

The baseline of methods of higher-resolution adaptation, as in table 1 of Self-Cascade (Guo et al.,
ECCV 2024; arXiv 2402.10491): all steps, from noise of the target's size.

Differs from the paper in: nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_modules.from_base import FromBase
from lightning_modules.image_model import adam
from lightning_modules.noise import Noise

if TYPE_CHECKING:
    from datamodules.base import Batch


class Direct(FromBase):
    """The frozen base at the target's size. Nothing is trained.

    Args:
        scale: Factor between the sides of the base's images and of the output; set by
            ``data.init_args.scale``.

    Raises:
        ValueError: If a setting is out of range or unknown, or parts do not fit together.
    """

    def __init__(
        self,
        scale: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, optimizer=adam, lr_scheduler=None, weights=None, **kwargs)
        self._name_weights()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Raise: there is nothing to train.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"{type(self).__name__} has nothing to train: use test or predict; to train the base "
            "at the output's size, or an adapter, set another model.class_path"
        )

    @torch.no_grad()
    def generate(self, batch: Batch, noise: Noise) -> Tensor:
        """Run all steps from noise of the output's size.

        Raises:
            ValueError: If a side is no multiple of the space's factor, or of ``scale``.
        """
        size = (batch["size"][0], batch["size"][1])
        return self.space.decode(self.direct(batch, size, self.trained_size(size), noise))

    def setup(self, stage: str) -> None:
        """Check the frozen parts, and refuse ``fit``.

        Raises:
            ValueError: As in ``FromBase.setup``, or if the stage is ``fit``.
        """
        super().setup(stage)
        if stage == "fit":
            self.training_step({}, 0)
