"""pFID and pKID: their crops, and their numbers from the parts of FID and KID."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callbacks.metrics.fid import FID, PatchFID, PatchKID, frechet_distance, polynomial_mmd
from tests.callbacks.random_inception import inception, inception_file

__all__ = ["inception", "inception_file"]


def random_images(n: int = 3, height: int = 310, width: int = 320) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


class Corners(PatchFID):
    """Return the corner of each crop instead of its features."""

    crops = 4

    def embed(self, pixels: Tensor) -> Tensor:
        assert pixels.shape[1:] == (3, 299, 299)
        return pixels[:, :, 0, 0]


def test_crops_belong_to_the_image_and_are_not_resized() -> None:
    metric, images = Corners(), random_images()
    batch: Any = {"key": ["a", "b", "c"]}
    found = metric.features(images, batch)
    assert found.shape == (3, 4, 3)
    turned: Any = {"key": ["c", "b", "a"]}
    assert torch.equal(metric.features(images.flip(0), turned), found.flip(0))
    other = metric.features(images, turned)  # the same pixels under other names
    assert not torch.equal(other, found)
    levels = (images * 255).round()
    for image, corners in zip(levels, found, strict=True):
        possible = image[:, :12, :22].flatten(1).T
        assert all((possible == corner).all(1).any() for corner in corners)
    assert len(found[0].unique(dim=0)) > 1  # not one place four times
    # An output and its HR are cropped at the same places.
    assert torch.equal(metric.features((images * 255).round() / 255, batch), found)


def test_an_image_of_one_crop(inception: Path) -> None:
    images = random_images(2, 299, 299)
    metric, whole = PatchFID(), FID("torch-fidelity")
    for each in (metric, whole):
        each.load()
    batch: Any = {"key": ["a", "b"]}
    ours = metric.features(images, batch)
    expected = whole.features(images, batch)
    torch.testing.assert_close(ours[:, 2], expected, rtol=1e-5, atol=1e-5)


def test_the_numbers_are_those_of_all_crops() -> None:
    draws = torch.Generator().manual_seed(0)
    sr, hr = (torch.randn(5, 3, 8, generator=draws).double() for _ in range(2))
    flat = sr.reshape(15, 8), hr.reshape(15, 8)
    assert PatchFID().distance(sr, hr) == frechet_distance(*flat)
    assert PatchKID().distance(sr, hr) == polynomial_mmd(*flat)
