"""PSNR, SSIM, LR-PSNR and repetition against libraries and published numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.nn import functional

from callbacks.metrics.consistency import LRConsistency, Repetition, autocorrelation
from callbacks.metrics.pixels import PSNR, SSIM
from degradations.bicubic import resize
from tests.callbacks.tiny import Images, Tiny, loader, validate
from tests.make import hr_and_lr, keys, noisy, normal, smooth, uniform


@pytest.fixture
def hr():
    """Smooth images of whole levels."""
    return (smooth(3, (40, 31)) * 255).round() / 255


def compute(metric, sr, hr, scale):
    metric.scale = scale
    return metric.compute(sr, hr, keys(len(sr)))


def reference_pixels(image, color, border):
    """(H, W, C) of 0 to 255 by numpy and scikit-image."""
    levels = np.round(image.permute(1, 2, 0).double().numpy() * 255)
    if color == "y":
        levels = rgb2ycbcr(levels / 255)[..., :1]
    height, width, _ = levels.shape
    return levels[border : height - border, border : width - border]


@pytest.mark.parametrize("color", ["y", "rgb"])
@pytest.mark.parametrize(("border", "cut"), [("scale", 2), ("scale+6", 8), (0, 0), (5, 5)])
def test_psnr_and_ssim_are_those_of_scikit_image_at_scale_2(hr, color, border, cut):
    sr = noisy(hr)

    psnr = compute(PSNR(color, border), sr, hr, scale=2.0)
    ssim = compute(SSIM(color, border), sr, hr, scale=2.0)

    for n in range(3):
        a = reference_pixels(sr[n], color, cut)
        b = reference_pixels(hr[n], color, cut)
        assert psnr[n].item() == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255))
        # Its mean leaves out 5 pixels at each edge, where the window does not fit.
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


def test_without_rounding_a_difference_of_less_than_half_a_level_counts():
    """LIIF's tables, for one, are of outputs that are not rounded to 8 bits."""
    black = torch.zeros(1, 3, 20, 20)
    nearly_black = torch.full((1, 3, 20, 20), 0.4 / 255)

    rounded = compute(PSNR("rgb"), nearly_black, black, scale=2.0)
    unrounded = compute(PSNR("rgb", round_8bit=False), nearly_black, black, scale=2.0)

    assert rounded.isinf().all()  # equal images
    assert unrounded.item() == pytest.approx(20 * math.log10(255 / 0.4), abs=1e-4)


@pytest.mark.parametrize(
    ("border", "scale", "cut"),
    [("scale", 2.5, 3), ("scale", 4.0, 4), ("scale", 1.0, 0), ("scale+6", 1.0, 6)],
)
def test_a_border_of_the_scale_is_rounded_up_and_none_at_scale_1(hr, border, scale, cut):
    """Tables of restoration, at scale 1, cut nothing off; `scale+6` cuts off 6 pixels more."""
    sr = noisy(hr)

    values = compute(PSNR(border=border), sr, hr, scale)

    assert torch.equal(values, compute(PSNR(border=cut), sr, hr, scale))


def test_psnr_of_equal_images_is_infinite_with_a_warning_and_ssim_is_1(tmp_path, caplog):
    class Perfect(Tiny):
        def validation_step(self, batch, batch_idx):
            return {"sr": batch["hr"]}

    psnr = PSNR()
    ssim = SSIM()

    validate(tmp_path, psnr, ssim, model=Perfect(), data=loader(Images(count=7)))

    assert psnr.records[0]["value"] == math.inf
    assert ssim.records[0]["value"] == pytest.approx(1, abs=1e-12)
    assert "psnr is not finite for 7 of 7 images" in caplog.text


# ---------------------------------------------- LR-consistency and its numbers on Set5; repetition


@pytest.mark.parametrize(("scale", "of_bicubic", "of_hr"), [(2, 42.4, 61.5), (4, 38.8, 59.6)])
def test_lr_consistency_of_bicubic_and_of_hr_on_set5(data_root, scale, of_bicubic, of_hr):
    """The PSNR between LR and the output, downscaled again: how well an output explains its input.

    The numbers are our own; an independent script has 42.3 and 38.8 of bicubic. That of HR is
    finite because LR is rounded to 8 bits.
    """
    metric = LRConsistency()
    values = []

    for _, hr, lr in hr_and_lr(data_root / f"set5/x{scale}"):
        bicubic = resize(lr, hr.shape[-2:])
        images = torch.cat([bicubic, hr])
        batch = keys(2) | {"lr": lr.expand(2, -1, -1, -1)}
        values.append(metric.compute(images, images, batch))

    assert torch.stack(values).mean(0).tolist() == pytest.approx([of_bicubic, of_hr], abs=0.1)


def test_lr_consistency_rounds_the_output_and_not_lr():
    """Outputs are measured as files have them, but LR as the model got it."""
    grey = 127.5 / 255
    lr = torch.full((2, 3, 8, 9), grey)
    sr = torch.full((2, 3, 20, 23), grey)
    sr[1] += 10.2 / 255

    values = LRConsistency("rgb").compute(sr, sr, keys(2) | {"lr": lr})

    # Flat outputs keep their level downscaled: 128 for 127.5, and 138 for 137.7. LR stays 127.5.
    expected = [20 * math.log10(255 / 0.5), 20 * math.log10(255 / 10.5)]
    assert values.tolist() == pytest.approx(expected, abs=1e-3)


@pytest.fixture(scope="module")
def scenes():
    """20 images of 32x32 pixels: an object of 8x8 in the middle of a ground below a sky."""
    sky = torch.linspace(0.8, 0.2, 32).view(1, 1, 32, 1).expand(20, 3, 32, 32)
    objects = uniform(20, 3, 8, 8) - 0.5
    return (sky + 0.8 * functional.pad(objects, [12] * 4)).clamp(0, 1)


def repetition(images, base=16):
    return float(Repetition(base).features(images, keys(len(images))).mean())


@pytest.mark.parametrize("distance", [3, 4])
def test_repetition_is_the_correlation_of_rows_at_a_distance(distance):
    images = normal(2, 20, 9).double()

    correlations = autocorrelation(images, range(distance, distance + 1))

    for image, correlation in zip(images, correlations, strict=True):
        centred = image - image.mean(0)  # minus the mean of each column
        above = centred[:-distance]
        below = centred[distance:]
        expected = (above * below).sum() / (above.norm() * below.norm())
        assert correlation.item() == pytest.approx(expected.item())


def test_copies_of_an_image_within_it_raise_repetition(scenes):
    four_copies = functional.avg_pool2d(scenes, 2).tile(1, 1, 2, 2)
    two_copies = functional.avg_pool2d(scenes, (1, 2)).tile(1, 1, 1, 2)  # side by side

    # At a distance of 16 pixels, the base, rows and columns are equal in four copies, but only
    # columns in two. Measured are 0.38 and -0.19, and -0.25 for the scenes.
    assert repetition(four_copies) > repetition(scenes) + 0.4
    assert repetition(two_copies) > repetition(scenes) + 0.05


def test_a_gradient_and_a_flat_image_have_no_repetition():
    """Else a sky, which is like itself at any distance, would count as repeated content."""
    gradient = torch.linspace(0, 1, 32).view(1, 1, 32, 1).expand(2, 3, 32, 32)
    flat = torch.full((1, 3, 32, 48), 0.5)

    assert repetition(gradient) < 0
    assert repetition(flat) == pytest.approx(0, abs=1e-9)


def test_blur_hardly_changes_repetition(scenes):
    blurred = functional.interpolate(functional.avg_pool2d(scenes, 2), scale_factor=2.0)

    assert repetition(blurred) == pytest.approx(repetition(scenes), abs=0.05)


def test_images_and_a_base_of_four_times_the_size_have_the_same_repetition(scenes):
    large = functional.interpolate(scenes, scale_factor=4.0, mode="nearest")

    assert repetition(large, base=64) == pytest.approx(repetition(scenes), abs=1e-6)
