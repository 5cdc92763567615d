"""Degradations as augmentations of kornia, for its containers."""

from __future__ import annotations

from typing import Any

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from torch import Tensor

from degradations.base import Degradation, Stage
from degradations.compose import Stages
from degradations.pipeline import Pipeline


class RandomDegradation(IntensityAugmentationBase2D):
    """A stage, several stages or a whole degradation as an augmentation of kornia.

    It works alone and in `kornia.augmentation.AugmentationSequential`, `ImageSequential` and
    `VideoSequential`, on images of any floating type, which are clamped to [0, 1]. kornia draws one
    seed per image from torch's global generator and keeps it with its other parameters. The output
    follows from the seed: `params={"seeds": seeds}`, (B,) int64 on the CPU, gives the LR of
    `degradation(hr, seeds)`.

    Masks, boxes and keypoints are not changed. An HR passed as a mask is therefore returned beside
    its LR, with the flips and crops of the augmentations before this one:

        pairs = AugmentationSequential(
            RandomHorizontalFlip(), RandomDegradation(RealESRGAN(4.0)), data_keys=["input", "mask"]
        )
        lr, hr = pairs(images, images)

    Args:
        degradation: A degradation, or stages: one, a list or a dictionary. Stages keep the size:
            resized images are resized back.
        p: Probability that an image is degraded.
        same_on_batch: Give all images of a batch the same seed.
        keepdim: Return an image (C, H, W) without a batch dimension if it was given so.

    Raises:
        TypeError: ``degradation`` is neither a degradation nor stages.
        ValueError: The degradation changes sizes, and ``p`` is below 1.
    """

    def __init__(
        self,
        degradation: Degradation | Stage | Stages,
        p: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, p_batch=1.0, keepdim=keepdim)
        if not isinstance(degradation, Degradation):
            stages = degradation if isinstance(degradation, list | dict) else [degradation]
            degradation = Pipeline(1.0, stages, quantize=False, compile=False)
        if p < 1.0 and degradation.scale != 1.0:
            raise ValueError(
                f"p is {p:g}, and the degradation makes images {degradation.scale:g} times "
                "smaller, which cannot share a batch with images of the old size: set p to 1"
            )
        self.degradation = degradation

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw `seeds`, (B,) int64 on the CPU for any device."""
        count = 1 if self.same_on_batch else batch_shape[0]
        seeds = torch.randint(2**63 - 1, (count,), device="cpu")
        return {"seeds": seeds.expand(batch_shape[0])}

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Degrade (B, 3, H, W); the LR is in [0, 1] and has the input's dtype."""
        images = input.float().clamp(0.0, 1.0)
        return self.degradation(images, params["seeds"]).to(input.dtype)
