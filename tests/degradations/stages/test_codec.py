"""WebP through Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from degradations.draws import Draws
from degradations.stages.codec import WebP

X = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None, :, 20:, 150:].float() / 255


@pytest.mark.parametrize("size", [(96, 80), (37, 53), (1, 1), (5, 1)])
def test_is_exactly_what_pillow_writes_and_reads(size):
    x = X[..., : size[0], : size[1]]
    for quality in (10, 50, 95):
        file = io.BytesIO()
        pixels = (x[0].permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(file, "WEBP", quality=quality, method=4)
        expected = np.asarray(Image.open(file).convert("RGB")) / np.float32(255)
        y = WebP()(x, {"quality": torch.tensor([quality])})
        np.testing.assert_array_equal(y[0].permute(1, 2, 0), expected)


def test_quality_is_drawn_per_image_with_both_ends():
    params = WebP((40, 42)).draw(Draws(np.arange(1000)), torch.Size((1000, 3, 8, 8)))
    assert set(params["quality"]) == {40, 41, 42}
    with pytest.raises(ValueError, match="quality"):
        WebP((50, 101))
