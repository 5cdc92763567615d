"""PSNR and SSIM against scikit-image and the tables of the papers."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.nn import functional

import enlarger
from callbacks.metrics.pixels import PSNR, SSIM, PixelMetric
from tests.callbacks.tiny import Tiny, loader, trainer


def pair(n: int = 3, size: tuple[int, int] = (40, 31)) -> tuple[Tensor, Tensor]:
    """Return a smooth image in 8 bits, and a noisy one in floats."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(n, 3, 8, 8, generator=generator)
    hr = functional.interpolate(coarse, size=size, mode="bilinear").mul(255).round().div(255)
    sr = (hr + 0.05 * torch.randn(hr.shape, generator=generator)).clamp(0, 1)
    return sr, hr


def reference_pixels(image: Tensor, color: str, border: int) -> list[np.ndarray[Any, Any]]:
    """Compute from (H, W, C) of each image, with numpy and scikit-image."""
    out = []
    for x in image.permute(0, 2, 3, 1).numpy():
        levels = np.round(x.astype(np.float64) * 255)
        if color == "y":
            levels = rgb2ycbcr(levels / 255)[..., :1]
        out.append(levels[border : x.shape[0] - border, border : x.shape[1] - border])
    return out


def compute(metric: PixelMetric, sr: Tensor, hr: Tensor, scale: float = 2) -> Tensor:
    metric.scale = scale
    return metric.compute(sr, hr, {"key": [str(i) for i in range(len(sr))]})


@pytest.mark.parametrize("color", ["y", "rgb"])
@pytest.mark.parametrize(("border", "cut"), [("scale", 2), ("scale+6", 8), (0, 0), (5, 5)])
def test_as_scikit_image(color: Any, border: Any, cut: int) -> None:
    sr, hr = pair()
    references = list(
        zip(reference_pixels(sr, color, cut), reference_pixels(hr, color, cut), strict=True)
    )
    psnr = [peak_signal_noise_ratio(b, a, data_range=255) for a, b in references]
    torch.testing.assert_close(
        compute(PSNR(color, border), sr, hr), torch.tensor(psnr), rtol=0, atol=1e-6
    )
    similarity = [
        structural_similarity(
            a,
            b,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=-1,
        )  # its mean leaves out the 5 pixels where the window does not fit
        for a, b in references
    ]
    torch.testing.assert_close(
        compute(SSIM(color, border), sr, hr),
        torch.tensor(np.array(similarity)),
        rtol=0,
        atol=1e-6,
    )


def test_rounding_can_be_left_out() -> None:
    hr = torch.zeros(1, 3, 20, 20)
    assert compute(PSNR(), hr + 0.4 / 255, hr).isinf().all()
    rgb = compute(PSNR("rgb", round_8bit=False), hr + 0.4 / 255, hr)
    assert rgb.item() == pytest.approx(20 * math.log10(255 / 0.4), abs=1e-4)


@pytest.mark.parametrize(("scale", "cut"), [(2.0, 2), (2.5, 3), (4.0, 4)])
def test_border_of_the_scale_is_rounded_up(scale: float, cut: int) -> None:
    sr, hr = pair(1)
    sr[..., cut - 1, :] += 1  # in the border
    inside = compute(PSNR(), sr, hr, scale)
    assert inside == compute(PSNR(border=cut), sr, hr)
    assert inside != compute(PSNR(border=cut - 1), sr, hr)


def test_at_scale_1_there_is_no_border() -> None:
    sr, hr = pair(1)
    for border, cut in (("scale", 0), ("scale+6", 6)):
        found = enlarger.measure([sr[0]], [hr[0]], [PSNR(border=border)])["psnr"]
        assert found["protocol"]["border"] == cut
        assert found["value"] == pytest.approx(compute(PSNR(border=cut), sr, hr).item())


def test_equal_images_are_infinite_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Perfect(Tiny):
        def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
            return {"sr": batch["hr"]}

    metrics = [PSNR(), SSIM()]
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, *metrics).validate(Perfect(), loader(), verbose=False)
    assert metrics[0].records[0]["value"] == math.inf
    assert metrics[1].records[0]["value"] == pytest.approx(1, abs=1e-12)
    assert "psnr is not finite for 7 of 7 images" in caplog.text


def test_bicubic_on_set5_is_the_published_number(data_root: Path) -> None:
    """33.67 dB with Pillow's bicubic, whose rounding differs slightly from MATLAB's."""
    values = []
    for path in sorted((data_root / "set5/x2/hr").glob("*.png")):
        hr = Image.open(path)
        lr = Image.open(data_root / "set5/x2/lr" / path.name)
        sr = lr.resize(hr.size, Image.Resampling.BICUBIC)
        tensors = [
            torch.from_numpy(np.array(x.convert("RGB"))).permute(2, 0, 1)[None] / 255
            for x in (sr, hr)
        ]
        values.append(compute(PSNR(), *tensors).item())
    assert len(values) == 5
    assert sum(values) / 5 == pytest.approx(33.67, abs=0.03)
