"""The colour fix: against plain numpy, and by what it is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from degradations.bicubic import resize
from lightning_modules.sampling.color import (
    KINDS,
    ColorFix,
    adain,
    fix_colors,
    low_band,
    wavelet,
    ycbcr,
)

FIXES: list[Any] = [kind for kind in KINDS if kind != "none"]


def images(h: int = 20, w: int = 26, count: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, h, w, generator=torch.Generator().manual_seed(seed))


def smooth(h: int = 96, w: int = 80) -> Tensor:
    """Soft colours with a fine pattern on them."""
    y, x = torch.meshgrid(torch.arange(h) / h, torch.arange(w) / w, indexing="ij")
    soft = torch.stack([0.3 + 0.3 * x, 0.5 + 0.2 * torch.sin(4 * y), 0.6 - 0.3 * x * y])
    return (soft + 0.05 * torch.cos(2.5 * (y * h + x * w))).clamp(0, 1)[None]


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

    @pytest.mark.parametrize(("share", "kind"), [(1.0, "wavelet"), (0.0, "adain")])
    def test_a_blend_has_two_ends(self, share: float, kind: ColorFix) -> None:
        sr, lr = images(40, 52), images(seed=1)
        fixed = fix_colors(sr, lr, "blend", share)
        torch.testing.assert_close(fixed, fix_colors(sr, lr, kind), rtol=0, atol=1e-6)

    def test_a_blend_lies_between(self) -> None:
        sr, lr = images(40, 52) * 0.4 + 0.3, images(seed=1) * 0.4 + 0.3  # nothing is clamped
        ends = [fix_colors(sr, lr, kind) for kind in ("wavelet", "adain")]
        expected = 0.25 * ends[0] + 0.75 * ends[1]
        torch.testing.assert_close(fix_colors(sr, lr, "blend", 0.25), expected, rtol=0, atol=1e-6)


class TestWhatItIsFor:
    @pytest.mark.parametrize("kind", FIXES)
    def test_a_tint_goes(self, kind: ColorFix) -> None:
        hr = smooth()
        lr = resize(hr, (24, 20))
        tint = torch.tensor([0.06, -0.03, 0.05]).view(1, 3, 1, 1)
        if kind == "ycbcr":  # keeps the brightness
            tint = tint - (tint.view(3) * torch.tensor([0.299, 0.587, 0.114])).sum()
        before = (hr + tint).clamp(0, 1)
        after = fix_colors(before, lr, kind)
        assert (before - hr).mean((0, 2, 3)).abs().max() > 0.03
        assert (after - hr).mean((0, 2, 3)).abs().max() < 0.003

    def test_a_tint_of_a_part_goes(self) -> None:
        hr = smooth(160, 160)
        lr = resize(hr, (40, 40))
        tinted = hr.clone()
        tinted[:, 0, :, 80:] += 0.1
        after = fix_colors(tinted, lr, "wavelet")
        assert (after - hr)[:, 0, :, 120:].abs().mean() < 0.01
        assert (after - hr)[:, 0, :, 120:].mean().abs() < 0.003

    def test_details_stay(self) -> None:
        hr = smooth()
        fixed = fix_colors(hr, resize(hr, (24, 20)), "wavelet")
        torch.testing.assert_close(fixed, hr, rtol=0, atol=0.03)
        assert (fixed - low_band(fixed)).std() > 0.9 * (hr - low_band(hr)).std()

    @pytest.mark.parametrize("kind", FIXES)
    def test_what_is_right_stays(self, kind: ColorFix) -> None:
        """The enlarged LR image is its own reference."""
        lr = images(12, 10) * 0.6 + 0.2
        sr = resize(lr, (48, 40), clamp=False)
        torch.testing.assert_close(fix_colors(sr, lr, kind), sr, rtol=0, atol=1e-6)


class TestContract:
    @pytest.mark.parametrize("kind", FIXES)
    @pytest.mark.parametrize("side", range(1, 17))
    def test_any_size(self, kind: ColorFix, side: int) -> None:
        lr, sr = images(side, 17 - side), images(4 * side, 4 * (17 - side), seed=1)
        fixed = fix_colors(sr, lr, kind)
        assert fixed.shape == sr.shape
        assert fixed.dtype == torch.float32
        assert 0 <= fixed.min() <= fixed.max() <= 1  # NaN fails

    @pytest.mark.parametrize("kind", FIXES)
    @pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
    def test_a_constant(self, kind: ColorFix, value: float) -> None:
        """It gets the reference's value; `ycbcr` keeps the brightness of a grey."""
        sr, lr = torch.full((1, 3, 40, 36), 0.5), torch.full((1, 3, 10, 9), value)
        expected = 0.5 if kind == "ycbcr" else value
        assert (fix_colors(sr, lr, kind) - expected).abs().max() < 1e-6

    @pytest.mark.parametrize("kind", FIXES)
    def test_one_pixel(self, kind: ColorFix) -> None:
        assert fix_colors(torch.rand(1, 3, 1, 1), torch.rand(1, 3, 1, 1), kind).isfinite().all()

    @pytest.mark.parametrize("kind", FIXES)
    def test_an_image_does_not_depend_on_its_batch(self, kind: ColorFix) -> None:
        sr, lr = images(40, 52, 3), images(count=3, seed=1)
        both, one = fix_colors(sr, lr, kind), fix_colors(sr[1:2], lr[1:2], kind)
        torch.testing.assert_close(both[1:2], one, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("kind", FIXES)
    def test_autocast_does_not_matter(self, kind: ColorFix) -> None:
        sr, lr = images(40, 52), images(seed=1)
        with torch.autocast("cpu", torch.bfloat16):
            fixed = fix_colors(sr, lr, kind)
        assert torch.equal(fixed, fix_colors(sr, lr, kind))

    def test_the_arguments_are_left_as_they_were(self) -> None:
        sr, lr = images(40, 52), images(seed=1)
        before = sr.clone(), lr.clone()
        for kind in FIXES:
            fix_colors(sr, lr, kind)
        assert torch.equal(sr, before[0])
        assert torch.equal(lr, before[1])

    def test_none_is_the_image_itself(self) -> None:
        sr = images()
        assert fix_colors(sr, images(seed=1), "none") is sr

    @pytest.mark.parametrize(
        ("kind", "share", "message"),
        [
            ("wavelets", 0.5, r"model\.init_args\.color_fix is 'wavelets'; expected none, wavelet"),
            ("blend", 1.5, "share of wavelet in a blend is 1.5; expected 0 to 1"),
        ],
    )
    def test_what_cannot_be(self, kind: Any, share: float, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            fix_colors(images(), images(), kind, share)
