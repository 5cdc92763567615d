"""The colour fix: against plain numpy, and by what it is for."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from degradations.bicubic import resize
from lightning_modules.sampling.color import (
    ColorFix,
    adain,
    fix_colors,
    low_band,
    wavelet,
    ycbcr,
)

FIXES: list[Any] = [kind for kind in get_args(ColorFix) if kind != "none"]


def images(h: int = 20, w: int = 26, count: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, h, w, generator=torch.Generator().manual_seed(seed))


def blurred(x: np.ndarray) -> np.ndarray:
    """The a-trous blurs as they are written down: nine taps, borders repeated."""
    kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    for level in range(5):
        d = 2**level
        wide = np.pad(x, [(0, 0), (0, 0), (d, d), (d, d)], mode="edge")
        h, w = x.shape[-2:]
        x = sum(
            kernel[i, j] * wide[..., i * d : i * d + h, j * d : j * d + w]
            for i in range(3)
            for j in range(3)
        )
    return x


class TestAgainstNumpy:
    def test_wavelet(self) -> None:
        sr, reference = images(), images(seed=1)
        a, b = sr.double().numpy(), reference.double().numpy()
        expected = a - blurred(a) + blurred(b)
        np.testing.assert_allclose(wavelet(sr, reference).numpy(), expected, atol=1e-6)

    def test_adain(self) -> None:
        sr, reference = images(), images(seed=1) ** 2
        a, b = sr.double().numpy(), reference.double().numpy()
        for image in range(2):
            for channel in range(3):
                x, y = a[image, channel], b[image, channel]
                sigma, wanted = (np.sqrt(v.var(ddof=1) + 1e-5) for v in (x, y))
                expected = (x - x.mean()) / sigma * wanted + y.mean()
                fixed = adain(sr, reference)[image, channel].numpy()
                np.testing.assert_allclose(fixed, expected, atol=1e-6)

    def test_ycbcr_in_the_studio_range(self) -> None:
        sr, reference = images(), images(seed=1)
        matrix = np.array(
            [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]
        )
        offset = np.array([16.0, 128.0, 128.0])
        a, b = (x.double().permute(0, 2, 3, 1).numpy() @ matrix.T + offset for x in (sr, reference))
        mixed = np.concatenate([a[..., :1], b[..., 1:]], axis=-1)
        expected = (mixed - offset) @ np.linalg.inv(matrix).T
        fixed = ycbcr(sr, reference).permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(fixed, expected, atol=1e-5)

    def test_the_reference_is_pillows_bicubic(self) -> None:
        levels = (images(12, 14, 1)[0] * 255).round()
        image = Image.fromarray(levels.permute(1, 2, 0).byte().numpy())
        large = np.asarray(image.resize((56, 48), Image.Resampling.BICUBIC)) / 255
        reference = torch.from_numpy(large).float().permute(2, 0, 1)[None]
        sr = images(48, 56, 1, seed=2)
        fixed = fix_colors(sr, levels[None] / 255, "wavelet")
        expected = wavelet(sr, reference).clamp(0, 1)
        torch.testing.assert_close(fixed, expected, rtol=0, atol=0.01)  # Pillow's clips

    def test_adain_then_wavelet(self) -> None:
        sr, lr = images(40, 52), images(seed=1) ** 2
        reference = resize(lr, (40, 52), clamp=False)
        first = adain(sr, reference).clamp(0, 1)
        expected = (first - low_band(first) + low_band(reference)).clamp(0, 1)
        fixed = fix_colors(sr, lr, "adain_wavelet")
        torch.testing.assert_close(fixed, expected, rtol=0, atol=1e-6)


class TestAnyImage:
    @pytest.mark.parametrize("kind", FIXES)
    @pytest.mark.parametrize("size", [(1, 1), (1, 16), (9, 8), (16, 1)])
    def test_any_size(self, kind: ColorFix, size: tuple[int, int]) -> None:
        lr, sr = images(*size), images(4 * size[0], 4 * size[1], seed=1)
        for large in (sr, sr[..., : size[0], : size[1]]):
            fixed = fix_colors(large, lr, kind)
            assert fixed.shape == large.shape
            assert 0 <= fixed.min() <= fixed.max() <= 1  # NaN fails

    @pytest.mark.parametrize("kind", FIXES)
    def test_neither_the_batch_nor_autocast_matters(self, kind: ColorFix) -> None:
        """And arguments are left as they were."""
        sr, lr = images(40, 52, 3), images(count=3, seed=1)
        before = sr.clone(), lr.clone()
        every = fix_colors(sr, lr, kind)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(fix_colors(sr, lr, kind), every)
        one = fix_colors(sr[1:2], lr[1:2], kind)
        torch.testing.assert_close(every[1:2], one, rtol=0, atol=1e-6)
        assert all(map(torch.equal, (sr, lr), before))
