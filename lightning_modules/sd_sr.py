"""SD+SR: an image of the base's own size, enlarged by a super-resolution network.

A baseline of Self-Cascade that does not adapt the base (Guo et al., ECCV 2024; arXiv 2402.10491,
table 1).

Differs from the paper in: the upscaler is an argument. The paper's is Stable Diffusion's,
``lightning_modules.sd_upscale.SDUpscale``, which enlarges sides by four, also for 1024 px; its
number of steps, and the final resizing, are unpublished.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from degradations.bicubic import resize
from lightning_modules.base import SuperResolver
from lightning_modules.direct import Direct
from lightning_modules.noise import Noise
from lightning_modules.stages import Size

if TYPE_CHECKING:
    from datamodules.base import Batch

UpscalerCallable = Callable[[float], SuperResolver]


class SDSR(Direct):
    """The frozen base at its own size, then a frozen upscaler. Nothing is trained.

    Args:
        scale: Factor between the sides of the base's images and of the output; set by
            ``data.init_args.scale``.
        upscaler: Any method that enlarges images, such as
            ``lightning_modules.regression.Regression``; its scale is set.
        upscaler_weights: Its weights: a run that trained it, a file, or a name of
            ``configs/weights.yaml``. Not for an upscaler with its own weights.
        upscaler_scale: Its scale, if not ``scale``; its output is then resized by antialiased
            bicubic interpolation.

    Raises:
        ValueError: If a setting is out of range or unknown, or parts do not fit together.
    """

    def __init__(
        self,
        scale: float,
        *,
        upscaler: UpscalerCallable,
        upscaler_weights: str | None = None,
        upscaler_scale: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, patch=None, **kwargs)
        if self.denoiser.dimensions != 4:
            raise ValueError(
                "SDSR enlarges images, and model.init_args.denoiser makes clips: set it to "
                "lightning_modules.backbone.denoiser.UNet2D, or use another method"
            )
        self.upscaler_weights, self.upscaler_scale = upscaler_weights, upscaler_scale
        self.upscaler = upscaler(self.scale if upscaler_scale is None else upscaler_scale)
        self.upscaler.requires_grad_(False)
        self.upscaler.train(False)

    @torch.no_grad()
    def generate(self, batch: Batch, noise: Noise) -> Tensor:
        """Run all steps at the base's size, then the upscaler.

        Raises:
            ValueError: If a side is no multiple of the space's factor, or of ``scale``.
        """
        size = (batch["size"][0], batch["size"][1])
        base = self.trained_size(size)
        z = self.direct(batch, base, base, noise.stream(0))
        lr = self.space.decode(z).clamp(0, 1).float()
        given = cast("Batch", {**batch, "lr": lr, "size": self._upscaled(base, size)})
        return resize(self.upscaler.enlarge(given)["sr"], size)

    def _upscaled(self, base: Size, size: Size) -> Size:
        if self.upscaler_scale is None:
            return size
        height, width = (round(side * self.upscaler_scale) for side in base)
        return height, width

    def _settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        own, usual = super()._settings()
        weights = self.upscaler.weights_source
        own["upscaler"] = " ".join(filter(None, (type(self.upscaler).__name__, weights)))
        own["upscaler_scale"] = self.upscaler_scale
        own |= {f"upscaler.{key}": value for key, value in self.upscaler.options.items()}
        return own, {**usual, "upscaler_scale": None}

    def train(self, mode: bool = True) -> SDSR:
        """Set the mode, but keep the upscaler in evaluation mode."""
        super().train(mode)
        self.upscaler.train(False)
        return self

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load the base and the upscaler."""
        super().load_parts(find)
        self.upscaler.load_parts(lambda key, name: find(f"upscaler.init_args.{key}", name))
        if self.upscaler_weights is not None:
            self.upscaler.load_weights(find("upscaler_weights", self.upscaler_weights))

    def setup(self, stage: str) -> None:
        """Check the frozen parts, and refuse ``fit``.

        Raises:
            ValueError: As in ``Direct.setup``, or if the upscaler has random weights.
        """
        super().setup(stage)
        if self.upscaler.needs_weights:
            raise ValueError(
                f"model.init_args.upscaler, {type(self.upscaler).__name__}, has random weights: "
                "set model.init_args.upscaler_weights to the run that trained it, or to a file"
            )
