"""The WebP stage, on the CPU for images on any device."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from degradations.base import Canvas, IntegerRange, Stage, check_range, each_on_host
from degradations.draws import Draws, Params
from degradations.images import from_bytes, to_bytes


class WebP(Stage):
    """Save as lossy WebP by Pillow and load again; on the CPU, also for images on a GPU.

    Its chroma is always 4:2:0.

    Args:
        quality: Range of the quality, integers from 0 to 100, both ends included.

    Raises:
        ValueError: ``quality`` is out of range.
    """

    waits = True

    def __init__(self, quality: IntegerRange = (30, 95)) -> None:
        super().__init__()
        self.quality = check_range(quality, "quality", 0, 100)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `quality`, (B,) int."""
        lowest, highest = self.quality
        return {"quality": draws.integers(lowest, highest + 1)}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Code (B, 3, H, W) of any values; the output holds multiples of 1/255."""
        images = []
        qualities = params["quality"].tolist()
        for image, quality in zip(x, qualities, strict=True):
            file = io.BytesIO()
            original = Image.fromarray(to_bytes(image))
            original.save(file, "WEBP", quality=quality, method=4)
            with Image.open(file) as decoded:
                pixels = np.array(decoded.convert("RGB"))
            images.append(from_bytes(pixels, x))
        return torch.cat(images)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Cut out each image on the CPU: one copy from the device and one back."""
        return each_on_host(canvas, params, self)
