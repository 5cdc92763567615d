"""PSNR, SSIM, LR-PSNR and repetition against libraries and published numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.nn import functional

import enlarger
from callbacks.metrics.consistency import LRConsistency, Repetition, autocorrelation
from callbacks.metrics.pixels import PSNR, SSIM
from degradations.bicubic import resize
from tests.callbacks.tiny import Tiny, loader, trainer
from tests.make import as_tensor, keys, noisy, read, smooth, uniform


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


# ---------------------------------------------- LR-consistency and its numbers on Set5; repetition


def consistency(metric, sr, lr):
    return metric.compute(sr, sr, keys(len(sr)) | {"lr": lr})


@pytest.mark.parametrize(("scale", "bicubic", "real"), [(2, 42.4, 61.5), (4, 38.8, 59.6)])
def test_lr_consistency_on_set5(data_root, scale, bicubic, real):
    """Bicubic's numbers equal those of an independent script: 42.3 and 38.8."""
    values = []
    for path in sorted((data_root / f"set5/x{scale}/hr").glob("*.png")):
        hr = read(path)
        lr = read(data_root / f"set5/x{scale}/lr" / path.name)
        enlarged = resize(lr, hr.shape[-2:])
        values.append([consistency(LRConsistency(), x, lr).item() for x in (enlarged, hr)])

    assert np.mean(values, 0) == pytest.approx([bicubic, real], abs=0.1)


def test_lr_consistency_of_a_known_difference():
    lr = torch.full((2, 3, 8, 9), 0.5)
    sr = torch.full((2, 3, 20, 23), 0.5)  # any factor
    sr[1] += 10.2 / 255

    values = consistency(LRConsistency("rgb"), sr, lr)

    # 127.5 is rounded to 128, and 137.7 to 138.
    expected = [20 * math.log10(255 / 0.5), 20 * math.log10(255 / 10.5)]
    assert values.tolist() == pytest.approx(expected, abs=1e-3)


def scenes(count, seed=0):
    """32x32 images of one bright object each, on a ground below a sky."""
    sky = torch.linspace(0.8, 0.2, 32).view(1, 1, 32, 1).expand(count, 3, 32, 32)
    objects = uniform(count, 3, 8, 8, seed=seed) - 0.5
    return (sky + 0.8 * functional.pad(objects, [12] * 4)).clamp(0, 1)


def repetition(images, base=16):
    return float(Repetition(base).features(images, keys(len(images))).mean())


def test_repetition_is_the_correlation_of_rows_at_a_distance():
    x = torch.rand(2, 20, 9, dtype=torch.float64)

    correlations = autocorrelation(x, range(3, 5))

    y = x[1] - x[1].mean(0)
    above = y[:-4]
    below = y[4:]
    expected = (above * below).sum() / (above.square().sum() * below.square().sum()).sqrt()
    assert float(correlations[1, 1]) == pytest.approx(float(expected))


def test_copies_of_an_image_beside_each_other_repeat_it():
    whole = scenes(20)
    four = functional.avg_pool2d(whole, 2).tile(1, 1, 2, 2)
    two = functional.avg_pool2d(whole, (1, 2)).tile(1, 1, 1, 2)

    once = repetition(whole)

    assert repetition(four) > once + 0.4
    assert repetition(two) > once + 0.05


def test_a_level_ground_is_no_repetition_and_neither_is_blur():
    whole = scenes(20)
    ground = torch.linspace(0, 1, 32).view(1, 1, 32, 1).expand(2, 3, 32, 32)
    blurred = functional.interpolate(functional.avg_pool2d(whole, 2), scale_factor=2.0)

    assert repetition(ground) < 0
    assert abs(repetition(blurred) - repetition(whole)) < 0.05
    assert repetition(torch.full((1, 3, 32, 48), 0.5)) == pytest.approx(0, abs=1e-9)


def test_images_of_any_size_are_brought_to_one_for_repetition():
    whole = scenes(4, seed=1)
    large = functional.interpolate(whole, scale_factor=4.0, mode="nearest")

    assert repetition(large, base=64) == pytest.approx(repetition(whole), abs=1e-6)
