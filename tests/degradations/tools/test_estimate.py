"""Estimated noise of images with known noise."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from scipy.ndimage import gaussian_filter

from degradations.tools.estimate import noise_level


@functools.cache
def scene(blur=0.0, size=192, fine=4):
    """Return (1, 3, size, size): rotated squares, supersampled and averaged."""
    generator = torch.Generator().manual_seed(3)
    axis = (torch.arange(size * fine) + 0.5) / fine
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    image = torch.full_like(x, 0.5)
    for _ in range(12):
        row, column, angle, half, value = torch.rand(5, generator=generator).tolist()
        along = (x - column * size) * math.cos(angle) + (y - row * size) * math.sin(angle)
        across = (y - row * size) * math.cos(angle) - (x - column * size) * math.sin(angle)
        image[torch.maximum(along.abs(), across.abs()) < 12 + 30 * half] = 0.15 + 0.7 * value
    pixels = torch.nn.functional.avg_pool2d(image[None, None], fine)
    if blur:
        pixels = torch.from_numpy(gaussian_filter(pixels[0, 0].double().numpy(), blur))[None, None]
    return pixels.float().expand(1, 3, -1, -1)


def noisy(image, level):
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(image.shape, generator=generator) * level / 255
    return ((image + noise).clamp(0, 1) * 255).round() / 255


@pytest.mark.parametrize("level", [1.0, 2.0, 5.0, 10.0, 20.0, 40.0])
def test_noise_within_a_tenth(level):
    assert noise_level(noisy(scene(), level)) == pytest.approx(level, rel=0.1)


def test_noise_of_colours_is_averaged():
    image = scene()
    one = torch.cat((noisy(image, 12.0)[:, :1], image[:, 1:]), 1)
    assert noise_level(one) == pytest.approx(4.0, rel=0.1)


def test_no_noise_in_a_flat_image_and_no_answer_for_a_clipped_one():
    assert noise_level(torch.full((1, 3, 32, 32), 0.4)) == 0.0
    assert math.isnan(noise_level(torch.ones(1, 3, 32, 32)))


def test_clipped_parts_do_not_hide_noise():
    image = scene()
    image = torch.where(torch.arange(192) < 130, torch.tensor(1.5), image)
    assert noise_level(noisy(image, 10.0)) == pytest.approx(10.0, rel=0.1)
