"""Bicubic: what every table starts with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
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


def test_any_size_that_is_asked_for():
    batch = {**batch_of(), "size": (11, 17)}
    assert Bicubic(2).validation_step(batch, 0)["sr"].shape == (2, 3, 11, 17)


def test_it_has_no_weights():
    model = Bicubic(2)
    assert not model.needs_weights
    assert model.checkpoint_keys() == []
    assert model.weights_source is None


def test_it_cannot_be_trained():
    message = r"nothing to train: use test or predict, or another model\.class_path for fit"
    with pytest.raises(ValueError, match=message):
        Bicubic(2).training_step(batch_of(), 0)
    with pytest.raises(ValueError, match=r"Bicubic has no trainable parameters: use test"):
        Bicubic(2).configure_optimizers()


def test_in_tiles_it_is_the_same():
    class Tiled(Bicubic):
        tile, tile_overlap = 16, 8

    batch = batch_of(1, side=40)
    tiled, whole = Tiled(2).predict_step(batch, 0)["sr"], Tiled(2).test_step(batch, 0)["sr"]
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)
