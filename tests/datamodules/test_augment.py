"""Crops that are changed: albumentations on HR, and MixUp and CutBlur on the pair."""

import pickle

import albumentations
import pytest
import torch
from numpy.testing import assert_array_equal

from datamodules.augment import Albumentations
from datamodules.mixing import CutBlur, MixUp
from degradations.base import quantize_8bit
from degradations.bicubic import resize
from degradations.draws import Draws
from tests.contracts.degradation_contract import global_generators_untouched
from tests.datamodules.image_files import pixels
from tests.datamodules.memory import data_of, evaluation, random_images, training
from tests.make import assert_near, uniform

HR = pixels((48, 48))

TRANSFORMS = [
    albumentations.HorizontalFlip(p=0.5),
    albumentations.GaussNoise(p=0.5),
    albumentations.OneOf([albumentations.Blur(p=1), albumentations.ToGray(p=1)], p=0.5),
    albumentations.SomeOf([albumentations.Sharpen(p=1), albumentations.ISONoise(p=1)], n=1, p=0.5),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
def test_a_transform_depends_on_the_seed_alone(transform):
    augment = Albumentations([transform])
    with global_generators_untouched():
        images = [augment(HR, seed) for seed in range(20)]
    of_a_worker = pickle.loads(pickle.dumps(augment))

    assert any((image != images[0]).any() for image in images)
    for seed in reversed(range(20)):  # whatever ran before
        assert_array_equal(augment(HR, seed), images[seed])
        assert_array_equal(of_a_worker(HR, seed), images[seed])


class Stamp(albumentations.ImageOnlyTransform):
    """Writes its draws into the image, in place."""

    def apply(self, img, **params):
        img[0, 0] = [self.py_random.randrange(256) for _ in range(3)]
        img[1, 1] = self.random_generator.integers(0, 256, 3)
        self.drawn = img[0, 0].tolist() + img[1, 1].tolist()
        return img


def test_each_transform_has_draws_of_its_own():
    """They follow from its class and its number among those of the class, not from its place."""
    first = Stamp(p=1)
    second = Stamp(p=1)

    Albumentations([first])(HR, seed=3)
    alone = first.drawn
    Albumentations([albumentations.GaussNoise(p=1), first])(HR, seed=3)
    after_another = first.drawn
    Albumentations([first, second])(HR, seed=3)
    before_another = first.drawn

    assert after_another == alone
    assert before_another == alone
    assert all(a != b for a, b in zip(alone, second.drawn, strict=True))


# --------------------------------------------------------------------------------- MixUp, CutBlur


SEEDS = torch.arange(8)
PAIR_HR = uniform(8, 3, 24, 40)
PAIR_LR = uniform(8, 3, 12, 20, seed=1)


@pytest.mark.parametrize("kind", [MixUp, CutBlur])
def test_how_a_crop_is_mixed_does_not_depend_on_the_others_of_its_batch(kind):
    """It follows from its own seed, else results would change with the number of processes."""
    mixing = kind(probability=0.5)
    hr, lr = mixing(PAIR_HR, PAIR_LR, Draws(SEEDS))
    hr_of_three, lr_of_three = mixing(PAIR_HR[5:], PAIR_LR[5:], Draws(SEEDS[5:]))  # of the eight

    assert torch.equal(hr_of_three, hr[5:])
    assert torch.equal(lr_of_three, lr[5:])
    changed = (lr != PAIR_LR).flatten(1).any(1)
    assert changed[5:].sum() >= 2  # of the three, some are mixed,
    assert not changed.all()  # and of the eight, not all
    assert torch.equal(hr[~changed], PAIR_HR[~changed])


def test_mixup_blends_hr_and_lr_with_the_turned_crop():
    """By one share for an image and its LR."""
    blended_hr, blended_lr = MixUp(probability=1.0)(PAIR_HR, PAIR_LR, Draws(SEEDS))

    turned_hr = PAIR_HR.flip(2, 3)  # by 180 degrees
    turned_lr = PAIR_LR.flip(2, 3)
    # Solved for the share: blended = share * hr + (1 - share) * turned.
    of_pixels = (blended_hr - turned_hr) / (PAIR_HR - turned_hr)
    share = of_pixels.flatten(1).nanmedian(1).values.view(-1, 1, 1, 1)

    assert share.min() < 0.4  # the shares of 8 crops are spread around 0.5
    assert share.max() > 0.6
    assert_near(blended_hr, share * PAIR_HR + (1 - share) * turned_hr, within=1e-4)
    assert_near(blended_lr, share * PAIR_LR + (1 - share) * turned_lr, within=1e-4)


def test_cutblur_replaces_a_part_of_lr_or_all_around_it_by_bicubic_of_hr():
    hr, lr = CutBlur(probability=1.0, side=0.7)(PAIR_HR, PAIR_LR, Draws(SEEDS))
    bicubic = quantize_8bit(resize(PAIR_HR, (12, 20)))
    replaced = lr != PAIR_LR
    counts = replaced.all(1).sum((1, 2)).tolist()
    assert torch.equal(hr, PAIR_HR)
    assert torch.equal(lr[replaced], bicubic[replaced])
    part = 8 * 14  # 0.7 of 12 and of 20, rounded
    assert set(counts) == {part, 12 * 20 - part}


def test_only_training_is_mixed():
    settings = {"batch_size": 2, "val": {"own": random_images(2)}}
    mixed = data_of(random_images(2), mixing=[CutBlur(probability=1.0)], **settings)
    plain = data_of(random_images(2), **settings)

    (trained_mixed,) = training(mixed)
    (trained_plain,) = training(plain)
    validated_mixed, _ = evaluation(mixed, "val")
    validated_plain, _ = evaluation(plain, "val")

    assert torch.equal(trained_mixed["hr"], trained_plain["hr"])
    assert not torch.equal(trained_mixed["lr"], trained_plain["lr"])
    assert torch.equal(validated_mixed["lr"], validated_plain["lr"])
