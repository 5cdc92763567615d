"""USM compared with the released formula in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data

from degradations.base import Canvas
from degradations.stages.sharpen import USM

SIZES = [(96, 112), (61, 37), (20, 31), (1, 40), (1, 1)]


def photograph(size):
    pixels = data.astronaut()[60 : 60 + size[0], 150 : 150 + size[1]]
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def gaussian(plane, side):
    sigma = 0.3 * ((side - 1) * 0.5 - 1) + 0.8
    taps = np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        plane = ndimage.correlate1d(plane, taps / taps.sum(), axis, mode="mirror")
    return plane


def formula(x, weight=0.5, side=51, threshold=10.0):
    planes = []
    for plane in x[0].double().numpy():
        residual = plane - gaussian(plane, side)
        soft = gaussian((np.abs(residual) * 255 > threshold).astype(float), side)
        sharp = np.clip(plane + weight * residual, 0, 1)
        planes.append(soft * sharp + (1 - soft) * plane)
    return np.stack(planes)[None]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arguments", [{}, {"weight": 2.0, "radius": 9, "threshold": 2.5}])
def test_is_the_formula(size, arguments):
    x, stage = photograph(size), USM(**arguments)
    names = {"weight": "weight", "radius": "side", "threshold": "threshold"}
    expected = formula(x, **{names[name]: value for name, value in arguments.items()})
    np.testing.assert_allclose(stage(x, {}), expected, rtol=0, atol=2e-6)
    on_canvas = stage.on_canvas(Canvas.of(x), {}).pixels
    np.testing.assert_allclose(on_canvas, expected, rtol=0, atol=2e-6)


def test_each_image_of_a_batch_and_of_a_canvas():
    whole = torch.cat([photograph((50, 64)), photograph((50, 64)).flip(-1)])
    y = USM()(whole, {})
    for i in range(2):
        torch.testing.assert_close(y[i : i + 1], USM()(whole[i : i + 1], {}), rtol=0, atol=1e-6)
    sizes = [(50, 64), (30, 20)]
    canvas = USM().on_canvas(Canvas(whole, torch.tensor(sizes), (50, 64)), {})
    for i, (h, w) in enumerate(sizes):
        expected = formula(whole[i : i + 1, :, :h, :w])
        np.testing.assert_allclose(canvas.pixels[i : i + 1, :, :h, :w], expected, atol=2e-6)
