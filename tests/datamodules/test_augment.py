"""The adapter of albumentations: random by the sample's seed only, and fast."""

from __future__ import annotations

import copy
import pickle

import albumentations
import numpy as np
import pytest

from datamodules.augment import Albumentations
from tests.contracts.degradation_contract import global_generators_untouched
from tests.datamodules.image_files import pixels

HR = pixels((48, 48))


class Stamp(albumentations.ImageOnlyTransform):
    """Writes its draws into the image, in place."""

    def apply(self, img, **params):
        img[0, 0] = [self.py_random.randrange(256) for _ in range(3)]
        img[1, 1] = self.random_generator.integers(0, 256, 3)
        self.seen = img[0, 0].tolist() + img[1, 1].tolist()
        return img


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


def adapter(*transforms):
    return Albumentations(copy.deepcopy(list(transforms or TRANSFORMS)))


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
def test_depends_on_the_seed_alone(transform):
    one = adapter(transform)
    expected = [one(HR, seed) for seed in range(20)]
    for seed in reversed(range(20)):  # whatever ran before
        np.testing.assert_array_equal(one(HR, seed), expected[seed])
    other = pickle.loads(pickle.dumps(adapter(transform)))  # as a worker gets it
    for seed in (7, 3):
        np.testing.assert_array_equal(other(HR, seed), expected[seed])
    assert any((image != expected[0]).any() for image in expected[1:])


def test_pickling_in_use_keeps_the_generators_together():
    one = adapter()
    one(HR, 1)
    for twin in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        for seed in range(10):
            np.testing.assert_array_equal(twin(HR, seed), one(HR, seed))


def test_global_generators_are_left_alone():
    with global_generators_untouched():
        adapter()(HR, 6)


def draws_of(stamp, *transforms):
    augment = Albumentations(list(transforms))
    augment(HR, 3)
    return stamp.seen


def test_each_transform_has_draws_of_its_own():
    first, second, flip = Stamp(p=1), Stamp(p=1), albumentations.GaussNoise(p=1)
    alone = draws_of(first, first)
    assert draws_of(first, flip, first) == alone  # regardless of other transforms
    assert draws_of(first, first, second) == alone
    assert all(a != b for a, b in zip(alone, second.seen, strict=True))
