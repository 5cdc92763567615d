"""The lattice: found only if it exists, and only at its period."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from callbacks.metrics.consistency import Lattice, lattice


def compute(metric: Lattice, sr: Tensor) -> Tensor:
    batch: Any = {"key": [f"set/{i}" for i in range(len(sr))]}
    return metric.measure(sr, sr, batch)


def photographs() -> Tensor:
    """Three of 200x196 pixels."""
    images = [x()[50:250, 60:256] for x in (data.astronaut, data.coffee, data.rocket)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def with_lattice(x: Tensor, period: int, levels: float) -> Tensor:
    x = x.clone()
    x[..., ::period, :] += levels / 255
    x[..., :, ::period] += levels / 255
    return x.clamp(0, 1)


def test_photographs_have_none_and_a_faint_one_is_found() -> None:
    x = photographs()
    clean = compute(Lattice(), x)
    assert (clean > 0.5).all()
    assert (clean < 2.5).all()
    assert (compute(Lattice(), with_lattice(x, 8, 4)) > 4 * clean).all()


def test_noise_has_none() -> None:
    """Neighbouring bins share noise, so that a mean ratio is a fifth above the ratio of means."""
    x = torch.rand(20, 3, 128, 160, generator=torch.Generator().manual_seed(0))
    assert compute(Lattice(), x).mean().item() == pytest.approx(1.2, abs=0.1)


def test_at_its_period_only() -> None:
    x = with_lattice(torch.full((1, 3, 320, 320), 0.5), 10, 8)
    assert compute(Lattice(10), x) > 100
    assert compute(Lattice(5), x) > 100  # half of it shares its multiples
    assert compute(Lattice(8), with_lattice(x * 0 + 0.5, 7, 8)) < 2


def test_one_direction_is_enough() -> None:
    x = photographs()
    columns = x.clone()
    columns[..., ::8] += 4 / 255
    rows = x.clone()
    rows[..., ::8, :] += 4 / 255
    clean = compute(Lattice(), x)
    for one in (columns, rows):
        assert (compute(Lattice(), one.clamp(0, 1)) > 2 * clean).all()


def test_rows_and_columns_count_alike() -> None:
    luma = photographs()[:, 0].double() * 255
    torch.testing.assert_close(lattice(luma, 8), lattice(luma.mT.contiguous(), 8))


def test_a_flat_image_has_none() -> None:
    assert compute(Lattice(), torch.full((1, 3, 64, 80), 0.3)).item() == pytest.approx(1, abs=1e-6)


def test_a_bad_pixel_spoils_its_image_only() -> None:
    x = photographs()
    expected = compute(Lattice(), x)
    x[1, 0, 70, 80] = torch.nan
    found = compute(Lattice(), x)
    assert found[1].isnan()
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])


def test_images_too_small_and_bad_arguments() -> None:
    with pytest.raises(
        ValueError, match="70x63 pixels are fewer than 64x64, 8 times the `period` of 8"
    ):
        compute(Lattice(), torch.rand(1, 3, 63, 70))
    with pytest.raises(ValueError, match="`period` of Lattice is 1"):
        Lattice(1)


def test_a_bad_pixel_at_the_edge_is_seen_too() -> None:
    x = photographs()
    x[0, 0, -1, -1] = torch.inf  # beyond the last whole period
    assert not compute(Lattice(), x)[0].isfinite()


@pytest.mark.slow
def test_the_values_of_kodak(data_root: Path) -> None:
    """The numbers of docs/protocols.md."""
    found: list[list[float]] = []
    for path in sorted((data_root / "kodak24").glob("*.png")):
        image = Image.open(path).convert("RGB")
        image.save(saved := BytesIO(), "JPEG", quality=10)
        x, jpeg = (
            torch.from_numpy(np.array(each)).permute(2, 0, 1)[None].float() / 255
            for each in (image, Image.open(saved))
        )
        found.append([compute(Lattice(), each).item() for each in (x, with_lattice(x, 8, 1), jpeg)])
    assert len(found) == 24
    clean, faint, jpeg = zip(*found, strict=True)
    assert (min(clean), median(clean), max(clean)) == pytest.approx((0.8, 1.1, 1.7), abs=0.05)
    assert (min(faint), median(faint), max(faint)) == pytest.approx((1.5, 5, 61), abs=0.5)
    assert median(jpeg) == pytest.approx(1.5, abs=0.05)
