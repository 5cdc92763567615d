"""Bicubic: what every table starts with."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lightning_modules.controls.simple import Bicubic
from tests.lightning_modules.tiny import batch_of


@pytest.mark.parametrize("scale", [1, 2, 3, 2.5])
def test_it_is_pillows(scale):
    batch = batch_of(1, side=14, scale=scale)
    pixels = (batch["lr"][0] * 255).round().byte()
    batch["lr"] = pixels[None] / 255
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    expected = np.asarray(image.resize(batch["size"][::-1], Image.Resampling.BICUBIC))
    sr = (Bicubic(scale).test_step(batch, 0)["sr"][0] * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(sr - expected).max() <= 1
    assert (sr == expected).mean() > 0.7  # Pillow rounds between its two passes
