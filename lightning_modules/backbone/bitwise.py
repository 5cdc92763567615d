"""Latents as bits at many scales: the space of next-scale autoregressive models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from files.weights import load_part, read_weights
from lightning_modules.backbone.space import Space, named
from lightning_modules.networks.autoencoders import BitwiseVAE
from lightning_modules.networks.bsq import (
    RATIOS,
    Budget,
    Scale,
    Scales,
    proportional,
    published,
    scales_of,
)
from lightning_modules.noise import Noise, Size

_TRAINED = "vae"  # name of the part in a run of `Tokenizer`


class BitwiseSpace(Space):
    """Latents of a bitwise tokenizer; by default that of Infinity-8B and NSARM.

    ``encode`` does not quantise. ``decode`` first quantises scale by scale, so a round trip shows
    the loss of quantisation.

    Args:
        vae: The autoencoder.
        grids: (h, w) in tokens of the scales, coarse to fine; or a budget of pixels, for the
            published ones of all aspect ratios.
        patch: Side of a token in positions of the latent.

    Raises:
        ValueError: If there are no grids, or they become smaller.
    """

    def __init__(
        self,
        vae: BitwiseVAE | None = None,
        grids: Sequence[Size] | Budget = "1M",
        patch: int = 2,
    ) -> None:
        super().__init__()
        self.vae = vae or BitwiseVAE()
        self.channels = self.vae.bits
        self.factor = self.vae.factor
        self.patch = patch
        if isinstance(grids, str):
            self.grids: str | list[list[int]] = grids
            trained = [published(ratio, grids, patch) for ratio in RATIOS]
        else:
            self.grids = [list(grid) for grid in grids]
            trained = [Scales(grids, patch)]
        self._scales_by_size = {scales.latents[-1]: scales for scales in trained}
        self.requires_grad_(False).eval()

    @property
    def settings(self) -> dict[str, Any]:
        """What latents depend on, as ``Space.settings``, with the scales."""
        return {**super().settings, "grids": self.grids, "patch": self.patch}

    @property
    def bits(self) -> int:
        """Number of bits of a token."""
        return self.channels * self.patch**2

    @property
    def square(self) -> Scales:
        """The scales of a square, or the only ones."""
        squares = [scales for (h, w), scales in self._scales_by_size.items() if h == w]
        return squares[0] if squares else next(iter(self._scales_by_size.values()))

    def scales(self, size: Size) -> Scales:
        """Return the scales of a latent.

        Args:
            size: (h, w) of the latent.

        Raises:
            ValueError: If there are none for this size.
        """
        if tuple(size) not in self._scales_by_size:
            pixels = [f"{h * self.factor}x{w * self.factor}" for h, w in self._scales_by_size]
            raise ValueError(
                f"an image of {size[0] * self.factor}x{size[1] * self.factor} pixels has no "
                f"scales: choose one of {', '.join(pixels)}, or set grids of the space"
            )
        return self._scales_by_size[size[0], size[1]]

    def coded(self, f: Tensor) -> list[Scale]:
        """Return the codes of a latent of any size, scale by scale.

        A size without scales of its own gets those of a square, in proportion.

        Args:
            f: (B, d, h, w), not quantised.
        """
        size = (f.shape[-2], f.shape[-1])
        if size in self._scales_by_size:
            sizes = self._scales_by_size[size].latents
        else:
            sizes = proportional(self.square.latents, size)
        return list(scales_of(f, sizes))

    def images(self, total: Tensor) -> Tensor:
        """Decode codes to images, without quantising again.

        Args:
            total: (B, d, h, w), the sum of the scales' codes.

        Returns:
            (B, 3, h factor, w factor), about [0, 1], not clamped.
        """
        return self.vae.decode(total)

    def load_official(self, path: str | Path) -> None:
        """Load a released file, or a run of ``Tokenizer``."""
        weights = read_weights(path)
        load_part(self.vae, weights, _TRAINED)
        self.source = named(weights.name, self.vae)

    def _encode(self, image: Tensor, noise: Noise | None) -> Tensor:
        return self.vae.encode(image)

    def _decode(self, z: Tensor) -> Tensor:
        return self.images(self.coded(z)[-1].total)  # quantised first: `encode` does not
