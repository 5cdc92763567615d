"""Resize: kernels compared with torch and Pillow, and the canvas with single images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from degradations.base import Canvas
from degradations.bicubic import resize
from degradations.draws import Draws, split_params, to_device
from degradations.stages.resize import MODES, Resize, resample, resample_canvas, shrink_canvas
from tests.make import uniform

SIZES = [(37, 53), (11, 13), (1, 1), (1, 80), (80, 1), (36, 54), (50, 20), (148, 212)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic", "nearest-exact"])
def test_without_antialiasing_it_is_torchs(mode, size):
    x = uniform(1, 3, 37, 53)

    resized = resample(x, size, mode.removesuffix("-exact"))

    # In float64: torch's float32 is 4e-5 off, due to its float positions.
    expected = functional.interpolate(x.double(), size, mode=mode).float()
    torch.testing.assert_close(resized, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_with_antialiasing_it_is_pillows(mode, size):
    x = uniform(1, 3, 37, 53)

    resized = resample(x, size, mode, antialias=True)

    for plane, result in zip(x[0], resized[0], strict=True):
        image = Image.fromarray(plane.numpy())
        expected = np.asarray(image.resize(size[::-1], Image.Resampling[mode.upper()]))
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("n", "m"), [(4096, 4095), (4095, 4096), (4093, 1365)])
@pytest.mark.parametrize("mode", ["area", "bilinear"])
def test_large_sides_are_exact(mode, n, m):
    x = uniform(1, 1, n, 1)

    resized = resample(x, (m, 1), mode)
    on_canvas = resample_canvas(Canvas.of(x), torch.tensor([[m, 1]]), mode, False, (m, 1)).pixels

    expected = functional.interpolate(x.double(), (m, 1), mode=mode).float()
    torch.testing.assert_close(resized, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(on_canvas, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_canvas_equals_the_images_one_by_one(mode, antialias):
    """Up, down, kept and to one pixel, from differing sizes."""
    sizes = torch.tensor([[37, 53], [20, 9], [1, 1], [5, 53], [37, 53]])
    new_sizes = torch.tensor([[37, 53], [11, 13], [1, 1], [74, 80], [50, 20]])
    canvas = Canvas(uniform(5, 3, 37, 53), sizes, (37, 53))
    modes = torch.full((5,), MODES.index(mode))

    resized = resample_canvas(canvas, new_sizes, modes, torch.full((5,), antialias), (80, 80))

    assert torch.equal(resized.sizes, new_sizes)
    assert resized.pixels.isfinite().all()
    for n, (height, width) in enumerate(new_sizes.tolist()):
        alone = canvas.pixels[n : n + 1, :, : sizes[n, 0], : sizes[n, 1]]
        expected = resample(alone, (height, width), mode, antialias)
        got = resized.pixels[n : n + 1, :, :height, :width]
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(12, 9), (1, 4), (40, 24), (50, 70)])
def test_a_canvas_shrinks_to_the_lr_by_bicubic(size):
    sizes = [(40, 24), (33, 20), (12, 9), (2, 3)]
    pixels = uniform(4, 3, 40, 24).round()  # edges, so that both clamps apply

    lr = shrink_canvas(Canvas(pixels, torch.tensor(sizes), (40, 24)), size)

    for n, (height, width) in enumerate(sizes):
        expected = resize(pixels[n : n + 1, :, :height, :width], size)
        torch.testing.assert_close(lr[n : n + 1], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("divisor", [1.0, 4.0, 3.7])
def test_recorded_sizes_are_those_of_the_factor_and_of_the_result(divisor):
    stage = Resize(divisor=divisor)
    x = uniform(24, 3, 50, 3)
    params = stage.draw(Draws(np.arange(24)), x.shape)
    parts = split_params(to_device(params, 24, torch.device("cpu")), 24)

    height = np.maximum(1, np.floor(50 / divisor * params["factor"]))
    width = np.maximum(1, np.floor(3 / divisor * params["factor"]))
    np.testing.assert_array_equal(params["size"], np.stack([height, width], 1))
    for image, part, size in zip(x.split(1), parts, params["size"].tolist(), strict=True):
        assert stage(image, part).shape == (1, 3, *size)


@pytest.mark.parametrize("size", [(256, 256), (255, 257), (37, 53), (5, 7)])
@pytest.mark.parametrize(
    ("stage", "most"),
    [
        (Resize(), 1.5),
        (Resize(divisor=4.0), 1.5),
        (Resize(p=(0.0, 1.0, 0.0), down=(0.1, 0.3), divisor=3.7), 1.0),
        (Resize(up=(1.0, 2.9), divisor=2.3), 2.9),
    ],
)
def test_the_canvas_is_large_enough_and_not_much_larger(stage, most, size):
    params = stage.draw(Draws(np.arange(2000)), torch.Size((2000, 3, *size)))

    extents = stage.extent(size)

    for side, extent, drawn in zip(size, extents, params["size"].T, strict=True):
        # A recipe may set the LR size, which is rounded.
        assert max(drawn.max(), round(side / stage.divisor)) <= extent
        assert extent % 16 == 0
        assert extent < side / stage.divisor * most + 17
