"""CasArbi in the latents of an autoencoder: stages stay images, residuals are of latents."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_modules.backbone.space import Space
from lightning_modules.casarbi import CasArbi
from lightning_modules.latents import InLatents
from lightning_modules.sampling.tiling import padded


class LatentCasArbi(InLatents, CasArbi):
    """CasArbi whose process is from the latents of HR to those of the base's image.

    All is scaled as in pixels: the network's input to a deviation of 1, its output by sigma_r,
    measured in latents; with ``process.relative``, kappa is a multiple of that as well.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        space: Space of the diffusion.

    Raises:
        ValueError: If there is guidance, which is for pixels.
    """

    def __init__(self, scale: float, space: Space, **kwargs: Any) -> None:
        super().__init__(scale, **kwargs)
        self.space = space
        if self.guidance:
            raise ValueError(f"guidance is {self.guidance}; expected 0, as it is for pixels")

    def encoded(self, image: Tensor) -> Tensor:
        """Return latents of images (B, 3, H, W) in [0, 1], mirrored to whole positions."""
        return self.space.encode(padded(image, self.space.factor).lr)

    def decoded(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return images (B, 3, *size) in [0, 1] of latents."""
        return self.space.decode(x)[..., : size[0], : size[1]].clamp(0, 1)
