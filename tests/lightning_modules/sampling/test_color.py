"""The colour fix: against plain numpy and Pillow, and at any size."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from degradations.bicubic import resize
from lightning_modules.sampling.color import ColorFix, adain, fix_colors, low_band, wavelet, ycbcr
from tests import make
from tests.make import assert_near

FIXES = [kind for kind in get_args(ColorFix) if kind != "none"]
SR = make.uniform(2, 3, 20, 26)
REFERENCE = make.uniform(2, 3, 20, 26, seed=1) ** 2


def blurred(x):
    """Five a-trous blurs: nine taps, 1, 2, 4, 8 and 16 pixels apart, borders repeated."""
    kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    h, w = x.shape[-2:]
    for level in range(5):
        d = 2**level
        wide = np.pad(x, [(0, 0), (0, 0), (d, d), (d, d)], mode="edge")
        x = np.zeros_like(x)
        for i in range(3):
            for j in range(3):
                x += kernel[i, j] * wide[..., i * d : i * d + h, j * d : j * d + w]
    return x


def test_wavelet_takes_the_low_band_of_the_reference():
    sr = SR.double().numpy()
    reference = REFERENCE.double().numpy()
    expected = sr - blurred(sr) + blurred(reference)
    np.testing.assert_allclose(wavelet(SR, REFERENCE), expected, atol=1e-6)


def deviation(x):
    """Of each channel; the variance is 1e-5 larger, so that it is never 0."""
    return np.sqrt(x.var(axis=(2, 3), keepdims=True, ddof=1) + 1e-5)


def mean(x):
    return x.mean(axis=(2, 3), keepdims=True)


def test_adain_takes_mean_and_deviation_of_each_channel():
    sr = SR.double().numpy()
    reference = REFERENCE.double().numpy()
    normalised = (sr - mean(sr)) / deviation(sr)
    expected = normalised * deviation(reference) + mean(reference)
    np.testing.assert_allclose(adain(SR, REFERENCE), expected, atol=1e-6)


def test_ycbcr_takes_chroma_of_bt601_from_the_reference():
    matrix = torch.tensor(  # in the studio range: Y of 16 to 235, but for the offset
        [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]
    )
    mixed = torch.einsum("dc,bchw->bdhw", matrix, REFERENCE)
    mixed[:, 0] = torch.einsum("dc,bchw->bdhw", matrix, SR)[:, 0]
    expected = torch.einsum("dc,bchw->bdhw", matrix.inverse(), mixed)
    assert_near(ycbcr(SR, REFERENCE), expected, 1e-5)


def test_the_reference_is_lr_enlarged_as_by_pillows_bicubic():
    levels = (make.uniform(3, 12, 14) * 255).round()
    image = Image.fromarray(levels.permute(1, 2, 0).byte().numpy())
    reference = make.as_tensor(np.array(image.resize((56, 48), Image.Resampling.BICUBIC)))
    sr = make.uniform(1, 3, 48, 56, seed=2)

    fixed = fix_colors(sr, levels[None] / 255, "wavelet")

    assert_near(fixed, wavelet(sr, reference).clamp(0, 1), 0.01)  # Pillow's is rounded and clipped


def test_adain_wavelet_is_adain_clamped_and_then_wavelet():
    sr = make.uniform(2, 3, 40, 52)
    reference = resize(REFERENCE, (40, 52), clamp=False)
    first = adain(sr, reference).clamp(0, 1)
    expected = first - low_band(first) + low_band(reference)
    assert_near(fix_colors(sr, REFERENCE, "adain_wavelet"), expected.clamp(0, 1), 1e-6)


@pytest.mark.parametrize("kind", FIXES)
@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 16), (9, 8)])
@pytest.mark.parametrize("scale", [1, 4])
def test_the_colour_fix_takes_any_size(kind, h, w, scale):
    sr = make.uniform(2, 3, scale * h, scale * w)
    fixed = fix_colors(sr, make.uniform(2, 3, h, w, seed=1), kind)
    assert fixed.shape == sr.shape
    assert 0 <= fixed.min() <= fixed.max() <= 1  # NaN fails


@pytest.mark.parametrize("kind", FIXES)
def test_fixed_colours_depend_on_neither_the_batch_nor_autocast(kind):
    """Autocast to bfloat16 would leave 8 bits of each colour before the output is rounded."""
    sr = make.uniform(2, 3, 40, 52)
    fixed = fix_colors(sr, REFERENCE, kind)

    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fix_colors(sr, REFERENCE, kind), fixed)
    assert_near(fix_colors(sr[1:], REFERENCE[1:], kind), fixed[1:], 1e-6)


@pytest.mark.parametrize("kind", FIXES)
def test_the_image_whose_colours_are_fixed_is_not_changed_in_place(kind):
    """Some steps compute in place, which must only touch their own tensors."""
    sr = make.uniform(2, 3, 40, 52)
    fix_colors(sr, REFERENCE, kind)
    assert torch.equal(sr, make.uniform(2, 3, 40, 52))
