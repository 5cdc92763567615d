"""configs/degradation/kornia.yaml: kornia's augmentations alone, drawn per image from its seed."""

from __future__ import annotations

import torch
from skimage import data

from degradations.stages.adapters import KorniaAugmentation
from degradations.tools.configure import degradation_of
from tests.conftest import REPO

HR = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None, :, 96:224, 160:288].float() / 255
SEEDS = torch.arange(12)


def test_each_image_follows_from_its_seed_alone():
    degradation = degradation_of([REPO / "configs/degradation/kornia.yaml"], 4.0)
    lr = degradation(HR.repeat(12, 1, 1, 1), SEEDS)
    assert lr.isfinite().all()
    assert lr.min() >= 0
    assert lr.max() <= 1
    backwards = degradation(HR.repeat(12, 1, 1, 1), SEEDS.flip(0))
    assert torch.equal(lr, backwards.flip(0))
    for image, seed in zip(lr, SEEDS, strict=True):
        assert torch.equal(image, degradation(HR, seed.view(1))[0])
    assert len({tuple(image.flatten().tolist()) for image in lr}) == 12


def test_nothing_but_augmentations_of_kornia():
    degradation = degradation_of([REPO / "configs/degradation/kornia.yaml"], 4.0)
    assert all(isinstance(stage, KorniaAugmentation) for _, stage in degradation.named_stages())
