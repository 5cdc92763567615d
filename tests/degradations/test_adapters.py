"""Augmentations of kornia and transforms of albumentations as stages."""

from __future__ import annotations

import kornia.augmentation
import numpy as np
import pytest
import torch

from degradations.base import Canvas
from degradations.draws import Draws, to_device
from degradations.stages.adapters import Albumentations, KorniaAugmentation
from tests.make import uniform

AUGMENTATIONS = {
    "RandomMotionBlur": {"kernel_size": (3, 9), "angle": 90.0, "direction": 1.0},
    "RandomGaussianBlur": {"kernel_size": (5, 5), "sigma": (0.1, 2.0)},
    "RandomGaussianNoise": {"std": 0.1},
    "RandomJPEG": {"jpeg_quality": (10.0, 90.0)},
    "RandomPlasmaBrightness": {},
    "RandomPlasmaShadow": {},
    "RandomRain": {"number_of_drops": (5, 9), "drop_height": (3, 5), "drop_width": (-2, 2)},
    "RandomChannelDropout": {},
    "ColorJiggle": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1},
}


def augmentation(name, p):
    return getattr(kornia.augmentation, name)(**AUGMENTATIONS[name], p=p)


def draw(stage, count):
    params = stage.draw(Draws(np.arange(count)), torch.Size((count, 3, 16, 20)))
    return to_device(params, count, torch.device("cpu"))


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("p", [1.0, 0.5])
def test_an_augmentation_is_kornias_own_on_each_image_alone(name, p):
    stage = KorniaAugmentation(augmentation(name, p))
    x = uniform(6, 3, 16, 20)
    params = draw(stage, 6)

    y = stage(x, params)

    theirs = augmentation(name, p)
    for n in (4, 0, 2, 5, 1, 3):
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(params["seeds"][n].item())
            assert torch.equal(y[n], theirs(x[n : n + 1])[0])


@pytest.mark.parametrize("name", ["RandomJPEG", "RandomGaussianNoise", "RandomPlasmaShadow"])
def test_batched_augmentations_give_what_single_calls_give(name, monkeypatch):
    x = uniform(3, 3, 16, 20)
    one_by_one = KorniaAugmentation(augmentation(name, 0.6))
    batched = KorniaAugmentation(augmentation(name, 0.6), batched=True)
    params = draw(batched, 3)
    expected = one_by_one(x, params)
    calls = []
    cls = type(batched.augmentation)
    forward = cls.forward

    def counted(self, x, **settings):
        calls.append(len(x))
        return forward(self, x, **settings)

    monkeypatch.setattr(cls, "forward", counted)
    together = batched.on_canvas(Canvas.of(x), params).pixels

    assert calls == [3]
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["RandomMotionBlur", "ColorJiggle", "RandomChannelDropout", "RandomRain"]
)
def test_augmentations_that_share_a_parameter_are_not_batched(name):
    with pytest.raises(ValueError, match=f"{name} shares a parameter.*set batched to false"):
        KorniaAugmentation(augmentation(name, 0.1), batched=True)


@pytest.fixture(scope="module")
def albumentations():
    return pytest.importorskip("albumentations")


def test_a_transform_of_albumentations(albumentations):
    """By definition, white becomes black."""
    stage = Albumentations(albumentations.InvertImg(p=1.0))
    x = uniform(3, 3, 16, 20)

    y = stage(x, draw(stage, 3))

    torch.testing.assert_close(y, 1 - (x * 255).round() / 255, rtol=0, atol=1e-6)


def test_transforms_that_move_pixels_are_refused_also_deep_inside(albumentations):
    flip = albumentations.HorizontalFlip()
    inner = albumentations.OneOf([albumentations.Blur(), flip])

    for transform in (flip, albumentations.Compose([inner])):
        with pytest.raises(TypeError, match="HorizontalFlip may move pixels"):
            Albumentations(transform)


def test_dropouts_move_no_pixel(albumentations):
    stage = Albumentations(albumentations.CoarseDropout(p=1.0))
    x = uniform(3, 3, 16, 20)

    y = stage(x, draw(stage, 3))

    is_kept = (y - x).abs().amax(1) < 0.5 / 255 + 1e-6
    is_black = y.amax(1) == 0
    assert is_black.any()
    assert (is_kept | is_black).all()


def test_a_transform_that_gives_no_8_bit_image_is_refused(albumentations):
    stage = Albumentations(albumentations.Normalize(p=1.0))

    with pytest.raises(ValueError, match="Normalize returned float32"):
        stage(uniform(3, 3, 16, 20), draw(stage, 3))
