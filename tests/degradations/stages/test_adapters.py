"""Functions and augmentations of kornia and transforms of albumentations as stages."""

from __future__ import annotations

import pickle

import kornia.augmentation
import numpy as np
import pytest
import torch

from degradations.base import Canvas
from degradations.draws import Draws, split_params, to_device
from degradations.stages.adapters import Albumentations, KorniaAugmentation
from tests.contracts.degradation_contract import global_generators_untouched

CPU = torch.device("cpu")


def draw(stage, count=3, seed=0):
    return to_device(
        stage.draw(Draws(np.arange(seed, seed + count)), torch.Size((count, 3, 16, 20))), count, CPU
    )


def run(stage, x, seed=0):
    return stage(x, draw(stage, len(x), seed))


@pytest.fixture
def x():
    return torch.rand(3, 3, 16, 20, generator=torch.Generator().manual_seed(0))


# Kornia


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


def augmentation(name, **changed):
    arguments = {**AUGMENTATIONS.get(name, {}), **changed}
    return getattr(kornia.augmentation, name)(**arguments)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("p", [1.0, 0.5])
def test_an_augmentation_is_kornia_s_own_on_each_image_alone(name, p, x):
    x = x.repeat(2, 1, 1, 1)
    stage = KorniaAugmentation(augmentation(name, p=p))
    params = draw(stage, len(x))
    before = x.clone()
    with global_generators_untouched():
        y = stage(x, params)
    assert torch.equal(x, before)
    theirs = augmentation(name, p=p)
    for n in (4, 0, 2, 5, 1, 3):  # in another order, by a copy
        own, seed = split_params(params, len(x))[n], params["seeds"][n].item()
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)
            assert torch.equal(y[n], theirs(x[n : n + 1])[0])
        assert torch.equal(y[n], pickle.loads(pickle.dumps(stage))(x[n : n + 1], own)[0])
    assert not torch.equal(y[:3], y[3:])  # the same images, by other seeds


@pytest.mark.parametrize("name", ["RandomJPEG", "RandomGaussianNoise", "RandomPlasmaShadow"])
def test_batched_augmentations_give_what_single_calls_give(name, x, monkeypatch):
    stage = KorniaAugmentation(augmentation(name, p=0.6), batched=True)
    params = draw(stage)
    alone = KorniaAugmentation(augmentation(name, p=0.6))(x, params)
    calls = []
    forward = type(stage.augmentation).forward
    monkeypatch.setattr(
        type(stage.augmentation),
        "forward",
        lambda self, x, **kwargs: calls.append(len(x)) or forward(self, x, **kwargs),
    )
    together = stage.on_canvas(Canvas.of(x), params).pixels
    assert calls == [3]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["RandomMotionBlur", "ColorJiggle", "RandomChannelDropout", "RandomRain"]
)
def test_augmentations_that_share_a_parameter_are_not_batched(name):
    with pytest.raises(ValueError, match=f"{name} shares a parameter.*set batched to false"):
        KorniaAugmentation(augmentation(name, p=0.1), batched=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: kornia.augmentation.RandomHorizontalFlip(),
        lambda: kornia.augmentation.RandomMixUpV2(),
        lambda: kornia.augmentation.ImageSequential(kornia.augmentation.RandomInvert()),
        lambda: torch.nn.Identity(),
    ],
)
def test_refuses_what_moves_pixels_mixes_images_or_is_no_augmentation(make):
    with pytest.raises(TypeError, match="neither moves pixels nor mixes images"):
        KorniaAugmentation(make())


# Albumentations


@pytest.fixture(scope="module")
def albumentations():
    return pytest.importorskip("albumentations")


def test_a_transform(albumentations, x):
    """By definition, white becomes black."""
    y = run(Albumentations(albumentations.InvertImg(p=1.0)), x)
    torch.testing.assert_close(y, 1 - (x * 255).round() / 255, rtol=0, atol=1e-6)


def test_follows_from_the_image_s_seed_alone(albumentations, x):
    def make():
        group = [albumentations.GaussNoise(p=0.7), albumentations.MotionBlur(p=0.7)]
        return Albumentations(albumentations.OneOf(group, p=1.0))

    stage = make()
    params = draw(stage)
    with global_generators_untouched():
        y = stage(x, params)
    assert not torch.equal(run(stage, x, seed=50), y)
    for n in (2, 0, 1):  # in another order, by another object, by a copy
        own = split_params(params, 3)[n]
        for other in (stage, make(), pickle.loads(pickle.dumps(stage))):
            assert torch.equal(other(x[n : n + 1], own)[0], y[n])


def test_refuses_what_may_move_pixels(albumentations):
    flip, blur = albumentations.HorizontalFlip(), albumentations.Blur()
    for transform in (flip, albumentations.Compose([blur, albumentations.OneOf([blur, flip])])):
        with pytest.raises(TypeError, match="HorizontalFlip may move pixels"):
            Albumentations(transform)


def test_takes_dropouts_which_move_no_pixel(albumentations, x):
    stage = Albumentations(albumentations.CoarseDropout(p=1.0))
    y = run(stage, x)
    is_kept = (y - x).abs().amax(1) < 0.5 / 255 + 1e-6
    is_black = y.amax(1) == 0
    assert is_black.any()
    assert (is_kept | is_black).all()


def test_refuses_a_transform_that_gives_no_8_bit_image(albumentations, x):
    with pytest.raises(ValueError, match="Normalize returned float32"):
        run(Albumentations(albumentations.Normalize(p=1.0)), x)
