"""Bicubic compared with Pillow, MATLAB's files and published figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.metrics.pixels import PSNR
from degradations.bicubic import Bicubic, resize
from degradations.images import to_bytes
from tests.make import as_tensor, hr_and_lr, keys, photograph, uniform

SEED = torch.zeros(1, dtype=torch.int64)
BICUBIC = Image.Resampling.BICUBIC


def stripes():
    """One-pixel stripes and noise in black and white: overshoots at every pixel."""
    pixels = np.random.default_rng(0).integers(0, 2, (61, 83, 3)) * 255
    pixels[:, ::2] = 255
    pixels[20:40, 10:60] = 0
    return pixels.astype(np.uint8)


IMAGES = {"photograph": photograph(181, 207), "stripes": stripes()}


def assert_levels(image, expected, within):
    levels = to_bytes(image[0]).astype(int)
    np.testing.assert_allclose(levels, np.asarray(expected, int), atol=within)


@pytest.mark.parametrize("scale", [1.0, 1.3, 2.0, 4.0])
@pytest.mark.parametrize("name", IMAGES)
def test_shrinking_agrees_with_pillow_to_one_level(name, scale):
    image = IMAGES[name]

    lr = Bicubic(scale)(as_tensor(image), SEED)

    height, width = (round(side / scale) for side in image.shape[:2])
    expected = Image.fromarray(image).resize((width, height), BICUBIC)
    assert_levels(lr, expected, within=1)


@pytest.mark.parametrize("factor", [1.7, 4.0])
@pytest.mark.parametrize("name", IMAGES)
def test_enlarging_agrees_with_pillow_to_two_levels(name, factor):
    """Pillow rounds between the passes, too; a cubic can double that half level."""
    image = IMAGES[name][:60, :80]
    height = round(60 * factor)
    width = round(80 * factor)

    enlarged = resize(as_tensor(image), (height, width))

    expected = Image.fromarray(image).resize((width, height), BICUBIC)
    assert_levels(enlarged, expected, within=2)


@pytest.mark.parametrize(
    ("size", "target"), [((24, 1), (6, 1)), ((1, 24), (1, 6)), ((8, 8), (4, 1))]
)
def test_one_column_or_row_is_shrunk_as_by_pillow(size, target):
    """With antialiasing, torch reads beyond an image of one column."""
    image = uniform(1, 1, *size)

    resized = resize(image, target, clamp=False)

    plane = Image.fromarray(image[0, 0].numpy())
    expected = plane.resize(target[::-1], BICUBIC)
    np.testing.assert_allclose(resized[0, 0], np.asarray(expected), atol=1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_shrunk_set5_is_near_the_files_that_matlab_made(data_root, scale):
    """From 53.4 to 57.7 dB, by image: those files are rounded to 8 bits."""
    psnr = PSNR(color="rgb", border=0, round_8bit=False)

    for _, hr, matlabs in hr_and_lr(data_root / f"set5/x{scale}"):
        lr = Bicubic(scale)(hr, SEED)
        assert psnr.compute(lr, matlabs, keys(1)) > 53


@pytest.mark.parametrize(
    ("scale", "published"),
    [(2, 33.66), (3, 30.39), (4, 28.42)],  # EDSR (arXiv 1707.02921), table 3: MATLAB's bicubic
)
def test_enlarging_set5_has_the_published_psnr(data_root, scale, published):
    psnr = PSNR(border=scale)
    values = []

    for _, hr, lr in hr_and_lr(data_root / f"set5/x{scale}"):
        enlarged = resize(lr, hr.shape[-2:])
        values.append(psnr.compute(enlarged, hr, keys(1)).item())

    assert np.mean(values) == pytest.approx(published, abs=0.02)  # ours are .01 higher
