"""Resize: kernels compared with torch and Pillow, draws, both executors."""

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

CPU = torch.device("cpu")
PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
SIZES = [(37, 53), (11, 13), (1, 1), (1, 80), (80, 1), (36, 54), (50, 20), (75, 107), (148, 212)]


def noise(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def pillow(x, size, mode):
    """Resize each plane in Pillow's floating mode."""
    planes = [
        np.asarray(Image.fromarray(plane.numpy()).resize(size[::-1], PILLOW[mode]))
        for plane in x[0]
    ]
    return torch.from_numpy(np.stack(planes))[None]


def drawn(stage, seeds, shape):
    return stage.draw(Draws(np.asarray(seeds)), torch.Size(shape))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic", "nearest-exact"])
def test_equals_torch(mode, size):
    x = noise(1, 3, 37, 53)
    # In float64: torch's float32 is 4e-5 off, due to its float positions.
    expected = functional.interpolate(x.double(), size, mode=mode).float()
    got = resample(x, size, mode.removesuffix("-exact"))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", list(PILLOW))
def test_equals_pillow_where_antialiased(mode, size):
    x = noise(1, 3, 37, 53)
    got = resample(x, size, mode, antialias=True)
    torch.testing.assert_close(got, pillow(x, size, mode), rtol=0, atol=1e-5)
    if size[1] > 1:  # torch is wrong for images one pixel wide
        expected = functional.interpolate(x.double(), size, mode=mode, antialias=True).float()
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def a_canvas_of_everything():
    """Every mode, plain and antialiased, up, down, kept and to one pixel, from differing sizes."""
    into = [(37, 53), (11, 13), (1, 1), (74, 80), (50, 20)]
    cases = [
        (mode, antialias, size)
        for mode in range(len(MODES))
        for antialias in (False, True)
        for size in into
    ]
    sizes = torch.tensor([[37, 53], [20, 9], [1, 1], [5, 53]]).repeat(len(cases), 1)[: len(cases)]
    canvas = Canvas(noise(len(cases), 3, 37, 53), sizes, (37, 53))
    modes, antialias, new = zip(*cases, strict=True)
    return canvas, torch.tensor(modes), torch.tensor(antialias), torch.tensor(new)


def test_a_canvas_equals_the_images_one_by_one():
    canvas, modes, antialias, new = a_canvas_of_everything()
    got = resample_canvas(canvas, new, modes, antialias, (80, 80))
    assert got.pixels.shape == (len(modes), 3, 80, 80)
    assert got.pixels.isfinite().all()
    assert torch.equal(got.sizes, new)
    for k, (mode, widen, (h, w)) in enumerate(
        zip(modes.tolist(), antialias.tolist(), new.tolist(), strict=True)
    ):
        H, W = canvas.sizes[k]
        expected = resample(canvas.pixels[k : k + 1, :, :H, :W], (h, w), MODES[mode], widen)
        got_k = got.pixels[k : k + 1, :, :h, :w]
        torch.testing.assert_close(got_k, expected, rtol=0, atol=1e-5, msg=f"{MODES[mode]} {k}")


@pytest.mark.parametrize(("n", "m"), [(4096, 4095), (4095, 4096), (4093, 1365), (3001, 4096)])
@pytest.mark.parametrize("mode", ["area", "bilinear"])
def test_large_sides_are_exact(mode, n, m):
    x = noise(1, 1, n, 1)
    expected = functional.interpolate(x.double(), (m, 1), mode=mode).float()
    torch.testing.assert_close(resample(x, (m, 1), mode), expected, rtol=0, atol=1e-6)
    got = resample_canvas(Canvas.of(x), torch.tensor([[m, 1]]), mode, False, (m, 1)).pixels
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(12, 9), (1, 4), (40, 24), (50, 70)])
def test_shrink_canvas_is_bicubic_resize(size):
    sizes = [(40, 24), (33, 20), (12, 9), (2, 3)]
    pixels = noise(4, 3, 40, 24).round()  # edges, so that both clamps apply
    got = shrink_canvas(Canvas(pixels, torch.tensor(sizes), (40, 24)), size)
    assert got.shape == (4, 3, *size)
    for k, (h, w) in enumerate(sizes):
        expected = resize(pixels[k : k + 1, :, :h, :w], size)
        torch.testing.assert_close(got[k : k + 1], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("divisor", [1.0, 4.0, 3.7])
def test_recorded_sizes_are_those_of_the_factor_and_of_the_result(divisor):
    stage = Resize(divisor=divisor)
    params = drawn(stage, np.arange(24), (24, 3, 50, 3))
    side = [np.maximum(1, np.floor(n / divisor * params["factor"])) for n in (50, 3)]
    np.testing.assert_array_equal(params["size"], np.stack(side, 1))
    x, applied = noise(24, 3, 50, 3), to_device(params, 24, CPU)
    for image, own, size in zip(
        x.split(1), split_params(applied, 24), params["size"].tolist(), strict=True
    ):
        assert stage(image, own).shape == (1, 3, *size)


@pytest.mark.parametrize(
    "stage",
    [
        Resize(),
        Resize(divisor=4.0),
        Resize(p=(0.0, 1.0, 0.0), down=(0.1, 0.3), divisor=3.7),
        Resize(up=(1.0, 2.9), divisor=2.3),
    ],
)
def test_the_canvas_is_large_enough_and_not_much_larger(stage):
    for size in [(256, 256), (255, 257), (37, 53), (5, 7)]:
        params = drawn(stage, np.arange(2000), (2000, 3, *size))
        for n, extent, sides in zip(size, stage.extent(size), params["size"].T, strict=True):
            assert extent % 16 == 0
            # A recipe may set the LR size, which is rounded.
            largest = max(sides.max(), round(n / stage.divisor))
            assert largest <= extent
            assert extent < n / stage.divisor * max(stage.up[1] * (stage.p[0] > 0), 1) + 17
