"""What pages show of images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from callbacks.predict import screen
from files.images.decode import read_image

DRAWS = np.random.default_rng(0)


@pytest.mark.parametrize("type", [np.uint8, np.uint16])
def test_a_reduction_is_the_mean_of_squares_however_rows_come(type, monkeypatch):
    monkeypatch.setattr(screen, "SIDE", 20)
    pixels = DRAWS.integers(0, 256, (31, 47, 3)).astype(type)
    reduction = screen.Reduction()

    for start, stop in ((0, 1), (1, 12), (12, 31)):
        reduction.add(pixels[start:stop], (31, 47))

    squares = pixels[:30, :45].reshape(10, 3, 15, 3, 3)
    assert reduction.height == 31
    assert np.array_equal(reduction.pixels(), squares.mean((1, 3)).round())


def test_a_large_image_is_shown_reduced_with_its_profile(tmp_path, monkeypatch):
    monkeypatch.setattr(screen, "SIDE", 20)
    from tests.datamodules.profiles import rgb_profile

    source = tmp_path / "photograph.png"
    rgb = DRAWS.integers(0, 256, (30, 60, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(source, icc_profile=rgb_profile())

    shown = screen.reduced(read_image(source))

    assert shown.size == (20, 10)
    assert shown.info["icc_profile"] == rgb_profile()
