"""PSNR and SSIM against scikit-image and the tables of the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import enlarger
from callbacks.metrics.pixels import PSNR, SSIM
from tests.callbacks.tiny import Tiny, loader, trainer
from tests.make import as_tensor, keys, noisy, read, smooth


def pair(count=3):
    """Noisy images in floats, and smooth ones in 8 bits."""
    hr = (smooth(count, (40, 31)) * 255).round() / 255
    return noisy(hr), hr


def compute(metric, sr, hr, scale=2.0):
    metric.scale = scale
    return metric.compute(sr, hr, keys(len(sr)))


def reference_pixels(image, color, border):
    """(H, W, C) of 0 to 255 by numpy and scikit-image."""
    levels = np.round(image.permute(1, 2, 0).double().numpy() * 255)
    if color == "y":
        levels = rgb2ycbcr(levels / 255)[..., :1]
    height, width = levels.shape[:2]
    return levels[border : height - border, border : width - border]


@pytest.mark.parametrize("color", ["y", "rgb"])
@pytest.mark.parametrize(("border", "cut"), [("scale", 2), ("scale+6", 8), (0, 0), (5, 5)])
def test_psnr_and_ssim_are_scikit_images(color, border, cut):
    sr, hr = pair()

    psnr = compute(PSNR(color, border), sr, hr)
    ssim = compute(SSIM(color, border), sr, hr)

    for n in range(3):
        a = reference_pixels(sr[n], color, cut)
        b = reference_pixels(hr[n], color, cut)
        assert psnr[n].item() == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255))
        # Its mean leaves out the 5 pixels where the window does not fit.
        expected = structural_similarity(
            a,
            b,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=-1,
        )
        assert ssim[n].item() == pytest.approx(expected, abs=1e-6)


def test_rounding_can_be_left_out():
    hr = torch.zeros(1, 3, 20, 20)
    sr = hr + 0.4 / 255

    assert compute(PSNR(), sr, hr).isinf().all()
    expected = 20 * math.log10(255 / 0.4)
    unrounded = compute(PSNR("rgb", round_8bit=False), sr, hr)
    assert unrounded.item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("scale", "cut"), [(2.0, 2), (2.5, 3), (4.0, 4)])
def test_the_border_of_a_scale_is_rounded_up(scale, cut):
    sr, hr = pair(1)
    sr[..., cut - 1, :] += 1  # in the border

    inside = compute(PSNR(), sr, hr, scale)

    assert inside == compute(PSNR(border=cut), sr, hr)
    assert inside != compute(PSNR(border=cut - 1), sr, hr)


@pytest.mark.parametrize(("border", "cut"), [("scale", 0), ("scale+6", 6)])
def test_at_scale_1_there_is_no_border(border, cut):
    sr, hr = pair(1)

    record = enlarger.measure([sr[0]], [hr[0]], [PSNR(border=border)])["psnr"]

    assert record["protocol"]["border"] == cut
    assert record["value"] == pytest.approx(compute(PSNR(border=cut), sr, hr).item())


def test_equal_images_are_infinite_and_named(tmp_path, caplog):
    class Perfect(Tiny):
        def validation_step(self, batch, batch_idx):
            return {"sr": batch["hr"]}

    psnr = PSNR()
    ssim = SSIM()

    trainer(tmp_path, psnr, ssim).validate(Perfect(), loader(), verbose=False)

    assert psnr.records[0]["value"] == math.inf
    assert ssim.records[0]["value"] == pytest.approx(1, abs=1e-12)
    assert "psnr is not finite for 7 of 7 images" in caplog.text


def test_bicubic_on_set5_is_the_published_number(data_root):
    """33.67 dB with Pillow's bicubic, whose rounding differs slightly from MATLAB's."""
    values = []
    for path in sorted((data_root / "set5/x2/hr").glob("*.png")):
        hr = read(path)
        lr = Image.open(data_root / "set5/x2/lr" / path.name).convert("RGB")
        sr = lr.resize((hr.shape[3], hr.shape[2]), Image.Resampling.BICUBIC)
        values.append(compute(PSNR(), as_tensor(np.array(sr)), hr).item())

    assert len(values) == 5
    assert sum(values) / 5 == pytest.approx(33.67, abs=0.03)
