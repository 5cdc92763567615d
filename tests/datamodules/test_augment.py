"""Crops that are changed: albumentations on HR, and MixUp and CutBlur on the pair."""

from __future__ import annotations

import copy
import pickle

import albumentations
import numpy as np
import pytest
import torch

from datamodules.augment import Albumentations
from datamodules.mixing import CutBlur, MixUp
from degradations.base import quantize_8bit
from degradations.bicubic import resize
from degradations.draws import Draws
from tests.contracts.degradation_contract import global_generators_untouched
from tests.datamodules.image_files import pixels
from tests.datamodules.memory import data_of, evaluation, random_images, training
from tests.make import uniform

HR = pixels((48, 48))

TRANSFORMS = [
    albumentations.HorizontalFlip(p=0.5),
    albumentations.HueSaturationValue(p=0.5),
    albumentations.RandomBrightnessContrast(p=0.5),
    albumentations.GaussNoise(p=0.5),
    albumentations.CoarseDropout(p=0.5),
    albumentations.ShotNoise(p=0.5),
    albumentations.OneOf([albumentations.Blur(p=1), albumentations.ToGray(p=1)], p=0.5),
    albumentations.SomeOf([albumentations.Sharpen(p=1), albumentations.ISONoise(p=1)], n=1, p=0.5),
    albumentations.Sequential(
        [albumentations.RandomGamma(p=0.5), albumentations.CLAHE(p=0.5)], p=0.5
    ),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
def test_a_transform_depends_on_the_seed_alone(transform):
    augment = Albumentations([copy.deepcopy(transform)])
    expected = [augment(HR, seed) for seed in range(20)]
    assert any((image != expected[0]).any() for image in expected[1:])

    for seed in reversed(range(20)):  # whatever ran before
        np.testing.assert_array_equal(augment(HR, seed), expected[seed])
    of_a_worker = pickle.loads(pickle.dumps(Albumentations([copy.deepcopy(transform)])))
    for seed in (7, 3):
        np.testing.assert_array_equal(of_a_worker(HR, seed), expected[seed])


def test_transforms_copied_in_use_draw_the_same():
    augment = Albumentations(copy.deepcopy(TRANSFORMS))
    augment(HR, 1)
    for twin in (pickle.loads(pickle.dumps(augment)), copy.deepcopy(augment)):
        for seed in range(10):
            np.testing.assert_array_equal(twin(HR, seed), augment(HR, seed))


def test_global_generators_are_left_alone():
    with global_generators_untouched():
        Albumentations(copy.deepcopy(TRANSFORMS))(HR, 6)


class Stamp(albumentations.ImageOnlyTransform):
    """Writes its draws into the image, in place."""

    def apply(self, img, **params):
        img[0, 0] = [self.py_random.randrange(256) for _ in range(3)]
        img[1, 1] = self.random_generator.integers(0, 256, 3)
        self.drawn = img[0, 0].tolist() + img[1, 1].tolist()
        return img


def test_each_transform_has_draws_of_its_own():
    first = Stamp(p=1)
    second = Stamp(p=1)

    Albumentations([first])(HR, 3)
    alone = first.drawn
    Albumentations([albumentations.GaussNoise(p=1), first])(HR, 3)
    after_another = first.drawn
    Albumentations([first, second])(HR, 3)

    assert alone == after_another == first.drawn
    assert all(a != b for a, b in zip(alone, second.drawn, strict=True))


# --------------------------------------------------------------------------------- MixUp, CutBlur


SEEDS = torch.arange(8)
PAIR_HR = uniform(8, 3, 24, 40)
PAIR_LR = uniform(8, 3, 12, 20, seed=1)


@pytest.mark.parametrize("kind", [MixUp, CutBlur])
def test_a_crop_is_mixed_by_its_seed_alone(kind):
    hr, lr = kind()(PAIR_HR, PAIR_LR, Draws(SEEDS))
    for i in range(8):
        part = slice(i, i + 1)
        alone_hr, alone_lr = kind()(PAIR_HR[part], PAIR_LR[part], Draws(SEEDS[part]))
        assert torch.equal(alone_hr, hr[part])
        assert torch.equal(alone_lr, lr[part])
    changed = (lr != PAIR_LR).flatten(1).any(1)
    assert 0 < changed.sum() < 8

    never_hr, never_lr = kind(0.0)(PAIR_HR, PAIR_LR, Draws(SEEDS))
    assert torch.equal(never_hr, PAIR_HR)
    assert torch.equal(never_lr, PAIR_LR)


def test_mixup_blends_both_with_the_turned_crop():
    """By one share for an image and its LR."""
    blended_hr, blended_lr = MixUp(1.0)(PAIR_HR, PAIR_LR, Draws(SEEDS))
    turned_hr = PAIR_HR.flip(2, 3)
    turned_lr = PAIR_LR.flip(2, 3)
    of_pixels = (blended_hr - turned_hr) / (PAIR_HR - turned_hr)
    share = of_pixels.flatten(1).nanmedian(1).values.view(-1, 1, 1, 1)
    assert share.min() < 0.4 < 0.6 < share.max()
    for image, turned, blended in (
        (PAIR_HR, turned_hr, blended_hr),
        (PAIR_LR, turned_lr, blended_lr),
    ):
        expected = share * image + (1 - share) * turned
        torch.testing.assert_close(blended, expected, rtol=0, atol=1e-4)


def test_cutblur_replaces_a_square_or_all_around_it():
    hr, lr = CutBlur(1.0)(PAIR_HR, PAIR_LR, Draws(SEEDS))
    clean = quantize_8bit(resize(PAIR_HR, (12, 20)))
    replaced = lr != PAIR_LR
    counts = replaced.all(1).sum((1, 2)).tolist()
    assert torch.equal(hr, PAIR_HR)
    assert torch.equal(lr[replaced], clean[replaced])
    assert set(counts) == {8 * 14, 12 * 20 - 8 * 14}  # 0.7 of 12 and of 20, rounded


def test_training_alone_is_mixed():
    mixed = data_of(random_images(2), batch_size=2, mixing=[CutBlur(1.0)])
    plain = data_of(random_images(2), batch_size=2)
    mixed.val = plain.val = {"own": random_images(2)}
    batch = next(training(mixed))
    unmixed = next(training(plain))
    assert torch.equal(batch["hr"], unmixed["hr"])
    assert not torch.equal(batch["lr"], unmixed["lr"])
    assert torch.equal(next(evaluation(mixed, "val"))["lr"], next(evaluation(plain, "val"))["lr"])
