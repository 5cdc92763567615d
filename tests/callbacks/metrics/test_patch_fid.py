"""pFID and pKID: their crops, and their numbers from the parts of FID and KID."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.metrics.fid import FID, PatchFID, PatchKID, frechet_distance, polynomial_mmd
from tests.callbacks.random_inception import inception, inception_file
from tests.callbacks.tiny import Images, Tiny, loader, trainer

__all__ = ["inception", "inception_file"]


def random_images(n: int = 3, height: int = 310, width: int = 320) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


class Corners(PatchFID):
    """Return the corner of each crop instead of its features."""

    def embed(self, pixels: Tensor) -> Tensor:
        assert pixels.shape[1:] == (3, 299, 299)
        return pixels[:, :, 0, 0]


def test_crops_belong_to_the_image_and_are_not_resized() -> None:
    metric, images = Corners(crops=4), random_images()
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
    metric, whole = PatchFID(crops=1), FID("torch-fidelity")
    for each in (metric, whole):
        each.load()
    batch: Any = {"key": ["a", "b"]}
    ours = metric.features(images, batch)
    torch.testing.assert_close(ours[:, 0], whole.features(images, batch), rtol=1e-5, atol=1e-5)


def test_the_numbers_are_those_of_all_crops() -> None:
    draws = torch.Generator().manual_seed(0)
    sr, hr = (torch.randn(5, 3, 8, generator=draws).double() for _ in range(2))
    flat = sr.reshape(15, 8), hr.reshape(15, 8)
    assert PatchFID().distance(sr, hr) == frechet_distance(*flat)
    assert PatchKID().distance(sr, hr) == polynomial_mmd(*flat)


def test_a_run(inception: Path, tmp_path: Path) -> None:
    metrics = [PatchFID(crops=1), PatchKID(crops=1)]
    data = loader(Images(2, side=300))

    class Large(Tiny):
        def validation_step(self, batch: Any, *indices: int) -> dict[str, Tensor]:
            return {"sr": self(batch["lr"], (300, 300)).clamp(0, 1)}

    trainer(tmp_path, *metrics).validate(Large(), data, verbose=False)
    for metric in metrics:
        protocol = metric.records[0]["protocol"]
        assert protocol["crops"].startswith("1 of 299x299 from each image, not resized")
        assert "preset" not in protocol
        assert "few images" in protocol["remark"]


def test_images_smaller_than_a_crop(
    inception: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(tmp_path, metric := PatchFID()).validate(Tiny(), loader(), verbose=False)
    assert metric.records == []
    assert "images are smaller than a crop's 299x299 and left out, so there is no" in caplog.text


def test_no_crops() -> None:
    with pytest.raises(ValueError, match="`crops` of PatchKID is 0"):
        PatchKID(crops=0)
