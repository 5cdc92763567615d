"""Bicubic compared with Pillow, MATLAB's files, published figures and torch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from degradations.bicubic import Bicubic, resize

SEED = torch.zeros(1, dtype=torch.int64)
# R, G, B to Y of BT.601 in studio range, for values in [0, 1]: MATLAB's rgb2ycbcr.
LUMA = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64).view(3, 1, 1)


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255


def levels(image: torch.Tensor) -> np.ndarray:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def psnr(a: torch.Tensor, b: torch.Tensor, peak: float) -> float:
    return 10 * math.log10(peak**2 / float((a.double() - b.double()).square().mean()))


def hostile() -> np.ndarray:
    """One-pixel stripes and noise in black and white: overshoots at every pixel."""
    noise = np.random.default_rng(0).integers(0, 2, (61, 83, 3)) * 255
    noise[:, ::2] = 255
    noise[20:40, 10:60] = 0
    return noise.astype(np.uint8)


class TestPillow:
    @pytest.mark.parametrize("scale", [1.0, 1.3, 2.0, 2.7, 3.0, 4.0, 8.0])
    @pytest.mark.parametrize("name", ["astronaut", "coffee", "hostile"])
    def test_shrinking_agrees_to_one_level(self, name, scale):
        pixels = hostile() if name == "hostile" else getattr(data, name)()[:301, :407]
        lr = Bicubic(scale)(tensor(pixels), SEED)
        expected = Image.fromarray(pixels).resize(lr.shape[:1:-1], Image.Resampling.BICUBIC)
        assert difference(levels(lr), np.asarray(expected)) <= 1

    @pytest.mark.parametrize("factor", [1.0, 1.7, 2.0, 3.0, 4.0])
    @pytest.mark.parametrize("name", ["astronaut", "hostile"])
    def test_enlarging_agrees_to_two_levels(self, name, factor):
        # Pillow rounds between the passes, too; a cubic can double that half level.
        pixels = hostile() if name == "hostile" else getattr(data, name)()[100:164, 200:280]
        h, w = (round(side * factor) for side in pixels.shape[:2])
        expected = Image.fromarray(pixels).resize((w, h), Image.Resampling.BICUBIC)
        enlarged = resize(tensor(pixels), (h, w))
        assert difference(levels(enlarged), np.asarray(expected)) <= 2


class TestMatlab:
    @pytest.mark.parametrize("scale", [2, 3, 4])
    def test_the_files_of_set5(self, data_root, scale):
        paths = sorted((data_root / f"set5/x{scale}/hr").iterdir())
        assert len(paths) == 5
        for path in paths:
            lr = Bicubic(scale)(tensor(read(path)), SEED)
            file = tensor(read(path.parents[1] / "lr" / path.name))
            assert psnr(lr, file, 1.0) > 53, path.name  # 53.4 to 57.7; 50 is required

    @pytest.mark.parametrize(
        ("name", "scale", "published"),
        [
            ("set5", 2, 33.67),
            ("set5", 3, 30.40),
            ("set5", 4, 28.43),
            ("set14", 2, 30.33),
            ("set14", 4, 26.09),
        ],
    )
    def test_published_psnr_of_enlarging(self, data_root, name, scale, published):
        values = []
        for path in sorted((data_root / f"{name}/x{scale}/hr").iterdir()):
            hr = tensor(read(path))
            lr = tensor(read(path.parents[1] / "lr" / path.name))
            sr = tensor(levels(resize(lr, hr.shape[-2:])))
            y_sr, y_hr = (
                (image[0] * LUMA).sum(0)[scale:-scale, scale:-scale] for image in (sr, hr)
            )
            values.append(psnr(y_sr, y_hr, 255.0))
        assert len(values) == {"set5": 5, "set14": 14}[name]
        assert sum(values) / len(values) == pytest.approx(published, abs=0.01)


@pytest.mark.parametrize(
    ("size", "target"), [((24, 1), (6, 1)), ((1, 24), (1, 6)), ((8, 8), (4, 1))]
)
def test_one_column_or_row_is_as_any_other(size, target):
    """torch reads beyond an image of one column with antialiasing."""
    image = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0))
    mode = Image.Resampling.BICUBIC
    expected = np.asarray(Image.fromarray(image[0, 0].numpy()).resize(target[::-1], mode))
    got = resize(image, target, clamp=False)
    np.testing.assert_allclose(got[0, 0], expected, atol=1e-5)
