"""MS-SSIM against its formula in numpy, and torchmetrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from callbacks.metrics.pixels import MSSSIM, ms_ssim, to_pixels
from tests.quick import quick


def pair(size: tuple[int, int] = (190, 210)) -> tuple[Tensor, Tensor]:
    """Return a smooth image in 8 bit, and a disturbed one in floats."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, 24, 24, generator=generator)
    hr = functional.interpolate(coarse, size=size, mode="bilinear").mul(255).round().div(255)
    return (hr + 0.1 * torch.randn(hr.shape, generator=generator)).clamp(0, 1), hr


def compute(metric: MSSSIM, sr: Tensor, hr: Tensor, scale: float = 4) -> Tensor:
    metric.scale = scale
    batch: Any = {"key": [f"set/{i}" for i in range(len(sr))]}
    return metric.compute(sr, hr, batch)


def reference(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Eq. 7 on (C, H, W), with windows inside the image."""
    places = np.arange(-5, 6)
    window = np.exp(-(places[:, None] ** 2 + places**2) / (2 * 1.5**2))
    window = (window / window.sum())[None]
    product = 1.0
    for number, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if number:
            c, h, w = (a.shape[0], a.shape[1] // 2, a.shape[2] // 2)
            a, b = (x[:, : 2 * h, : 2 * w].reshape(c, h, 2, w, 2).mean((2, 4)) for x in (a, b))
        mean_a, mean_b, aa, bb, ab = (
            correlate(x, window)[:, 5:-5, 5:-5] for x in (a, b, a * a, b * b, a * b)
        )
        contrast = (2 * (ab - mean_a * mean_b) + (0.03 * 255) ** 2) / (
            aa - mean_a**2 + bb - mean_b**2 + (0.03 * 255) ** 2
        )
        if number == 4:
            c1 = (0.01 * 255) ** 2
            contrast *= (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        product *= max(contrast.mean(), 0) ** weight
    return float(product)


@pytest.mark.parametrize("color", quick(["y", "rgb"], "y"))
def test_as_its_formula_and_torchmetrics(color: Any) -> None:
    sr, hr = pair()
    pixels = [to_pixels(x, color, 4) for x in (sr, hr)]
    found = compute(MSSSIM(color), sr, hr)
    expected = [reference(a.numpy(), b.numpy()) for a, b in zip(*pixels, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)
    # Its last scale has a mirrored border of 5 pixels around some 12.
    theirs = multiscale_structural_similarity_index_measure(
        *pixels, data_range=255.0, reduction="none"
    )
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-3)
    assert (found > 0.3).all()
    assert (found < 0.999).all()


def test_equal_and_opposite_images() -> None:
    x = to_pixels(pair()[1], "y")
    torch.testing.assert_close(ms_ssim(x, x), torch.ones(2, dtype=torch.float64))
    assert torch.equal(ms_ssim(x, 255 - x), torch.zeros(2, dtype=torch.float64))
