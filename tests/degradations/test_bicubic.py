"""Bicubic compared with Pillow, MATLAB's files and published figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from degradations.bicubic import Bicubic, resize
from tests.make import as_tensor, photograph, read, uniform

SEED = torch.zeros(1, dtype=torch.int64)
# R, G, B to Y of BT.601 in studio range, for values in [0, 1]: MATLAB's rgb2ycbcr.
LUMA = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64).view(3, 1, 1)


def levels(image):
    """(1, 3, H, W) floats to (H, W, 3) of 0 to 255."""
    return (image.clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy().astype(np.uint8)


def psnr(a, b, peak):
    error = (a.double() - b.double()).square().mean()
    return 10 * math.log10(peak**2 / float(error))


def stripes():
    """One-pixel stripes and noise in black and white: overshoots at every pixel."""
    pixels = np.random.default_rng(0).integers(0, 2, (61, 83, 3)) * 255
    pixels[:, ::2] = 255
    pixels[20:40, 10:60] = 0
    return pixels.astype(np.uint8)


IMAGES = {"photograph": photograph(181, 207), "stripes": stripes()}


@pytest.mark.parametrize("scale", [1.0, 1.3, 2.0, 2.7, 3.0, 4.0, 8.0])
@pytest.mark.parametrize("name", IMAGES)
def test_shrinking_agrees_with_pillow_to_one_level(name, scale):
    lr = Bicubic(scale)(as_tensor(IMAGES[name]), SEED)

    size = (lr.shape[3], lr.shape[2])
    expected = Image.fromarray(IMAGES[name]).resize(size, Image.Resampling.BICUBIC)
    np.testing.assert_allclose(levels(lr).astype(int), np.asarray(expected, int), atol=1)


@pytest.mark.parametrize("factor", [1.7, 2.0, 4.0])
@pytest.mark.parametrize("name", IMAGES)
def test_enlarging_agrees_with_pillow_to_two_levels(name, factor):
    """Pillow rounds between the passes, too; a cubic can double that half level."""
    pixels = IMAGES[name][:60, :80]
    size = (round(60 * factor), round(80 * factor))

    enlarged = resize(as_tensor(pixels), size)

    expected = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_allclose(levels(enlarged).astype(int), np.asarray(expected, int), atol=2)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_files_that_matlab_made_of_set5(data_root, scale):
    paths = sorted((data_root / f"set5/x{scale}/hr").iterdir())

    assert len(paths) == 5
    for path in paths:
        lr = Bicubic(scale)(read(path), SEED)
        file = read(path.parents[1] / "lr" / path.name)
        assert psnr(lr, file, 1.0) > 53, path.name  # 53.4 to 57.7


@pytest.mark.parametrize(
    ("name", "scale", "published"),
    [
        ("set5", 2, 33.67),
        ("set5", 3, 30.40),
        ("set5", 4, 28.43),
        ("set14", 2, 30.33),
        ("set14", 4, 26.09),
    ],
)
def test_enlarging_has_the_published_psnr(data_root, name, scale, published):
    values = []
    for path in sorted((data_root / f"{name}/x{scale}/hr").iterdir()):
        hr = read(path)
        lr = read(path.parents[1] / "lr" / path.name)
        sr = as_tensor(levels(resize(lr, hr.shape[-2:])))
        inside = np.s_[scale:-scale, scale:-scale]
        y_sr = (sr[0] * LUMA).sum(0)[inside]
        y_hr = (hr[0] * LUMA).sum(0)[inside]
        values.append(psnr(y_sr, y_hr, 255.0))

    assert sum(values) / len(values) == pytest.approx(published, abs=0.01)


@pytest.mark.parametrize(
    ("size", "target"), [((24, 1), (6, 1)), ((1, 24), (1, 6)), ((8, 8), (4, 1))]
)
def test_one_column_or_row_is_as_any_other(size, target):
    """torch reads beyond an image of one column with antialiasing."""
    image = uniform(1, 1, *size)

    resized = resize(image, target, clamp=False)

    plane = Image.fromarray(image[0, 0].numpy())
    expected = np.asarray(plane.resize(target[::-1], Image.Resampling.BICUBIC))
    np.testing.assert_allclose(resized[0, 0], expected, atol=1e-5)
