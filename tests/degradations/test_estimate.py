"""Estimated noise and blur, against pictures of known ones."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

from degradations.estimate import blur_width, noise_level


@functools.cache
def scene(blur=0.0, size=192, fine=4):
    """(1, 3, size, size): turned squares, drawn finely and averaged, then blurred."""
    generator = torch.Generator().manual_seed(3)
    axis = (torch.arange(size * fine) + 0.5) / fine
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    picture = torch.full_like(x, 0.5)
    for _ in range(12):
        row, column, angle, half, value = torch.rand(5, generator=generator).tolist()
        along = (x - column * size) * math.cos(angle) + (y - row * size) * math.sin(angle)
        across = (y - row * size) * math.cos(angle) - (x - column * size) * math.sin(angle)
        picture[torch.maximum(along.abs(), across.abs()) < 12 + 30 * half] = 0.15 + 0.7 * value
    pixels = torch.nn.functional.avg_pool2d(picture[None, None], fine)
    if blur:
        pixels = torch.from_numpy(gaussian_filter(pixels[0, 0].double().numpy(), blur))[None, None]
    return pixels.float().expand(1, 3, -1, -1)


def noisy(picture, level):
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(picture.shape, generator=generator) * level / 255
    return ((picture + noise).clamp(0, 1) * 255).round() / 255


@pytest.mark.parametrize("level", [1.0, 2.0, 5.0, 10.0, 20.0, 40.0])
def test_noise_within_a_tenth(level):
    assert noise_level(noisy(scene(), level)) == pytest.approx(level, rel=0.1)


def test_noise_of_colours_is_averaged():
    picture = scene()
    one = torch.cat((noisy(picture, 12.0)[:, :1], picture[:, 1:]), 1)
    assert noise_level(one) == pytest.approx(4.0, rel=0.1)


def test_no_noise_in_a_flat_picture_and_no_answer_for_a_clipped_one():
    assert noise_level(torch.full((1, 3, 32, 32), 0.4)) == 0.0
    assert math.isnan(noise_level(torch.ones(1, 3, 32, 32)))


def test_clipped_parts_do_not_hide_noise():
    picture = scene()
    picture = torch.where(torch.arange(192) < 130, torch.tensor(1.5), picture)
    assert noise_level(noisy(picture, 10.0)) == pytest.approx(10.0, rel=0.1)


@pytest.mark.parametrize("noise", [0.0, 5.0])
def test_blur_of_edges(noise):
    widths = [0.5, 1.0, 1.5, 2.0, 3.0]
    estimates = [blur_width(noisy(scene(width), noise)) for width in widths]
    assert estimates == sorted(estimates)
    assert estimates == pytest.approx(widths, rel=0.15, abs=0.2)  # a pixel's own area is 0.29 px


def test_blur_does_not_depend_on_contrast():
    picture = scene(1.5)
    faint = 0.4 + 0.2 * picture
    assert blur_width(faint) == pytest.approx(blur_width(picture), rel=0.02)


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_photographs(name):
    """Texture is the difficulty: monotone, and right where the blur is more than the picture's."""
    sharp = torch.from_numpy(getattr(data, name)()[:384, :384] / 255.0)
    blurred = [
        torch.from_numpy(gaussian_filter(sharp.numpy(), (width, width, 0))) for width in (1, 2, 3)
    ]
    estimates = [
        blur_width(noisy(x.permute(2, 0, 1)[None].float(), 3.0)) for x in (sharp, *blurred)
    ]
    assert estimates == sorted(estimates)
    assert estimates[2:] == pytest.approx([2, 3], rel=0.25)


def test_no_edges_no_answer():
    assert math.isnan(blur_width(torch.full((1, 3, 64, 64), 0.5)))
    assert math.isnan(blur_width(torch.rand(1, 3, 5, 5)))
