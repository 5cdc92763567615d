"""Resize: kernels compared with torch and Pillow, and the canvas with single images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from degradations.base import Canvas
from degradations.bicubic import resize
from degradations.draws import Draws
from degradations.stages.resize import MODES, Resize, resample, resample_canvas, shrink_canvas
from tests.make import assert_near, drawn, uniform

SIZES = [(37, 53), (11, 13), (1, 80), (80, 1), (148, 212)]


def by_torch(image, size, mode):
    """In float64: torch's float32 is 4e-5 off, due to its float positions."""
    return functional.interpolate(image.double(), size, mode=mode).float()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic", "nearest-exact"])
def test_resample_without_antialiasing_equals_torch(mode, size):
    image = uniform(1, 3, 37, 53)

    resized = resample(image, size, mode.removesuffix("-exact"))

    assert_near(resized, by_torch(image, size, mode), 1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resample_with_antialiasing_equals_pillow(mode, size):
    image = uniform(1, 1, 37, 53)

    resized = resample(image, size, mode, antialias=True)

    plane = Image.fromarray(image[0, 0].numpy())
    expected = plane.resize(size[::-1], Image.Resampling[mode.upper()])
    np.testing.assert_allclose(resized[0, 0], np.asarray(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("side", "target"), [(4096, 4095), (4095, 4096), (4093, 1365)])
@pytest.mark.parametrize("mode", ["area", "bilinear"])
def test_positions_within_large_sides_are_exact(mode, side, target):
    """Below 4096, numbers of float32 are 2^-12 apart: weights of such positions are off by that."""
    image = uniform(1, 1, side, 1)
    size = (target, 1)

    alone = resample(image, size, mode)
    sizes = torch.tensor([size])
    canvas = resample_canvas(Canvas.of(image), sizes, mode, antialias=False, extent=size)

    expected = by_torch(image, size, mode)
    assert_near(alone, expected, 1e-6)
    assert_near(canvas.pixels, expected, 1e-6)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_canvas_equals_the_images_one_by_one(mode, antialias):
    """Enlarged, shrunk, kept and to one pixel, from differing sizes."""
    sizes = torch.tensor([[37, 53], [20, 9], [1, 1], [5, 53], [37, 53]])
    new_sizes = torch.tensor([[37, 53], [11, 13], [1, 1], [74, 80], [50, 20]])
    canvas = Canvas(uniform(5, 3, 37, 53), sizes, (37, 53))
    modes = torch.full((5,), MODES.index(mode))

    flags = torch.full((5,), antialias)
    resized = resample_canvas(canvas, new_sizes, modes, flags, extent=(80, 80))

    assert torch.equal(resized.sizes, new_sizes)
    for n in range(5):
        height, width = sizes[n]
        new_height, new_width = new_sizes[n].tolist()
        alone = canvas.pixels[n : n + 1, :, :height, :width]
        expected = resample(alone, (new_height, new_width), mode, antialias)
        assert_near(resized.pixels[n, :, :new_height, :new_width], expected[0], 1e-5)


@pytest.mark.parametrize("size", [(12, 9), (1, 4), (50, 70)])
def test_a_canvas_is_resized_to_the_lr_by_bicubic(size):
    sizes = torch.tensor([[40, 24], [33, 20], [12, 9], [2, 3]])
    pixels = uniform(4, 3, 40, 24).round()  # edges, so that both clamps apply

    lr = shrink_canvas(Canvas(pixels, sizes, (40, 24)), size)

    for n, (height, width) in enumerate(sizes):
        alone = pixels[n : n + 1, :, :height, :width]
        assert_near(lr[n], resize(alone, size)[0], 1e-5)


@pytest.mark.parametrize("divisor", [1.0, 3.7])
def test_sides_are_those_of_hr_over_the_divisor_times_the_factor_and_at_least_1(divisor):
    """With the scale as the divisor, factors are relative to LR."""
    stage = Resize(divisor=divisor)
    count = 24
    params = stage.draw(Draws(np.arange(count)), torch.Size((count, 3, 50, 3)))

    functions = stage.image_functions(drawn(stage, count, (50, 3)), torch.zeros(count))

    for n, function in enumerate(functions):
        height = max(1, int(50 / divisor * params["factor"][n]))
        width = max(1, int(3 / divisor * params["factor"][n]))
        assert params["size"][n].tolist() == [height, width]
        assert function(torch.zeros(1, 3, 50, 3)).shape == (1, 3, height, width)


@pytest.mark.parametrize("size", [(255, 257), (5, 7)])
@pytest.mark.parametrize(
    ("stage", "largest_factor"),
    [
        (Resize(), 1.5),
        (Resize(p=(0.0, 1.0, 0.0), down=(0.1, 0.3), divisor=3.7), 1.0),
        (Resize(up=(1.0, 2.9), divisor=2.3), 2.9),
    ],
    ids=["default: up to x1.5", "never enlarged", "up to x2.9"],
)
def test_the_canvas_is_large_enough_and_not_much_larger(stage, largest_factor, size):
    """For results of any factor; a larger one would take time and memory for nothing."""
    params = drawn(stage, 2000, size)

    extents = stage.extent(size)

    for axis, extent in enumerate(extents):
        side = size[axis] / stage.divisor
        assert params["size"][:, axis].max() <= extent
        assert round(side) <= extent  # that of the LR, which a recipe may set
        assert extent % 16 == 0
        assert extent < side * largest_factor + 17  # rounded up to a pixel, and that to 16
