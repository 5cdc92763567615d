"""Augmentations of kornia and transforms of albumentations as stages."""

from __future__ import annotations

import kornia.augmentation
import pytest
import torch

from degradations.base import Canvas
from degradations.stages.adapters import Albumentations, KorniaAugmentation
from tests.make import drawn, uniform

SIZE = (16, 20)
AUGMENTATIONS = {
    "RandomMotionBlur": {"kernel_size": (3, 9), "angle": 90.0, "direction": 1.0},
    "RandomGaussianNoise": {"std": 0.1},
    "RandomJPEG": {"jpeg_quality": (10.0, 90.0)},
    "RandomPlasmaShadow": {},
    "RandomChannelDropout": {},
    "ColorJiggle": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1},
}


def augmentation(name):
    cls = getattr(kornia.augmentation, name)
    return cls(**AUGMENTATIONS[name], p=0.6)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_gives_what_kornia_gives_with_the_seed_of_the_image(name):
    images = uniform(6, 3, *SIZE)
    stage = KorniaAugmentation(augmentation(name))
    params = drawn(stage, len(images), SIZE)

    augmented = stage(images, params)

    theirs = augmentation(name)
    for n, seed in enumerate(params["seeds"].tolist()):
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            expected = theirs(images[n : n + 1])
        assert torch.equal(augmented[n], expected[0])


@pytest.mark.parametrize("name", ["RandomJPEG", "RandomGaussianNoise", "RandomPlasmaShadow"])
def test_a_batched_augmentation_gives_what_single_calls_give(name):
    images = uniform(6, 3, *SIZE)  # the first and the fourth are changed
    one_by_one = KorniaAugmentation(augmentation(name))
    batched = KorniaAugmentation(augmentation(name), batched=True)
    params = drawn(batched, len(images), SIZE)

    canvas = batched.on_canvas(Canvas.of(images), params)

    torch.testing.assert_close(canvas.pixels, one_by_one(images, params), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["RandomMotionBlur", "ColorJiggle", "RandomChannelDropout"])
def test_an_augmentation_with_one_parameter_for_a_whole_batch_cannot_be_batched(name):
    """An image would depend on the others: kornia draws one kernel size or order a call."""
    with pytest.raises(ValueError, match=f"{name} shares a parameter.*set batched to false"):
        KorniaAugmentation(augmentation(name), batched=True)


@pytest.fixture(scope="module")
def albumentations():
    return pytest.importorskip("albumentations")


def test_a_transform_of_albumentations_gets_the_pixels_of_8_bits(albumentations):
    images = uniform(3, 3, *SIZE)
    stage = Albumentations(albumentations.InvertImg(p=1.0))

    inverted = stage(images, drawn(stage, len(images), SIZE))

    expected = 1 - (images * 255).round() / 255
    torch.testing.assert_close(inverted, expected, rtol=0, atol=1e-6)


def test_a_dropout_blackens_other_pixels_of_each_image_and_keeps_the_rest(albumentations):
    """It has keypoints, as transforms that move pixels have, and is accepted all the same."""
    images = uniform(3, 3, *SIZE)
    stage = Albumentations(albumentations.CoarseDropout(p=1.0))

    dropped = stage(images, drawn(stage, len(images), SIZE))

    is_kept = (dropped - images).abs().amax(1) < 0.6 / 255  # rounding to 8 bits is half a level
    is_black = dropped.amax(1) == 0
    assert is_black.any()
    assert (is_black[0] != is_black[1]).any()  # by the seed of each image
    assert (is_kept | is_black).all()


def test_transforms_that_move_pixels_are_refused_also_deep_inside(albumentations):
    flip = albumentations.HorizontalFlip()
    group = albumentations.OneOf([albumentations.Blur(), flip])

    with pytest.raises(TypeError, match="HorizontalFlip may move pixels"):
        Albumentations(albumentations.Compose([group]))


def test_a_transform_that_gives_no_8_bit_image_is_refused(albumentations):
    images = uniform(3, 3, *SIZE)
    stage = Albumentations(albumentations.Normalize(p=1.0))

    with pytest.raises(ValueError, match="Normalize returned float32"):
        stage(images, drawn(stage, len(images), SIZE))
