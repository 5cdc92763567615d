"""Functions and augmentations of kornia and transforms of albumentations as stages."""

from __future__ import annotations

import pickle

import jsonargparse
import kornia.augmentation
import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from degradations.base import Canvas, Degradation
from degradations.draws import Draws, split_params, to_device
from degradations.stages.adapters import Albumentations, Kornia, KorniaAugmentation
from degradations.tools.preview import name_of
from tests.contracts.degradation_contract import global_generators_untouched

CPU = torch.device("cpu")
BLUR = "kornia.filters.box_blur"


# Functions for the tests, which name them by their path.
def added(x, amount):
    return x + amount


def noisy(x, level=1.0):
    return x + level * torch.randn_like(x)


def halved(x):
    return x[..., ::2]


def as_double(x):
    return x.double()


def as_list(x):
    return [x]


def blown(x):
    return x / 0


def here(function):
    return f"{__name__}.{function.__name__}"


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


def test_a_function_of_kornia(x):
    """box_blur is the mean of a window."""
    stage = Kornia(BLUR, fixed={"kernel_size": 3, "border_type": "constant"})
    window = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    torch.testing.assert_close(run(stage, x), window, rtol=0, atol=1e-6)


def test_every_kind_of_argument(x):
    stage = Kornia(
        "kornia.filters.motion_blur",
        uniform={"angle": (0.0, 360.0), "direction": (-1.0, 1.0)},
        choices={"kernel_size": [3, 5, 7]},
        fixed={"border_type": "replicate"},
    )
    from kornia.filters import motion_blur

    params = draw(stage)
    own = params["arguments"]
    expected = [
        motion_blur(
            image,
            [3, 5, 7][own["kernel_size"][n]],
            own["angle"][n].item(),
            own["direction"][n].item(),
            "replicate",
        )
        for n, image in enumerate(x.split(1))
    ]
    assert torch.equal(stage(x, params), torch.cat(expected))


def test_each_image_has_its_own_value(x):
    stage = Kornia(here(added), uniform={"amount": (2.0, 3.0)})
    params = draw(stage)
    offsets = (stage(x, params) - x).mean((1, 2, 3))
    torch.testing.assert_close(offsets, params["arguments"]["amount"], rtol=1e-5, atol=0)
    assert len(set(offsets.tolist())) == 3


def test_what_is_drawn():
    stage = Kornia(
        "kornia.filters.bilateral_blur",
        uniform={"sigma_color": (0.1, 0.4)},
        integers={"kernel_size": (3, 6)},
        choices={"sigma_space": [[1.0, 1.0], [2.0, 2.0]]},
    )
    params = stage.draw(Draws(np.arange(4000)), torch.Size((4000, 3, 8, 8)))["arguments"]
    assert stats.kstest(params["sigma_color"], stats.uniform(0.1, 0.3).cdf).pvalue > 1e-3
    assert stats.chisquare(np.bincount(params["kernel_size"])[3:]).pvalue > 1e-3
    assert set(params["kernel_size"]) == {3, 4, 5, 6}
    assert stats.chisquare(np.bincount(params["sigma_space"])).pvalue > 1e-3


def test_another_argument_leaves_the_draws_as_they_were():
    few = Kornia(
        "kornia.filters.motion_blur",
        uniform={"angle": (0, 9)},
        fixed={"kernel_size": 3, "direction": 0.0},
    )
    more = Kornia(
        "kornia.filters.motion_blur",
        choices={"kernel_size": [3, 5]},
        uniform={"direction": (0, 1), "angle": (0, 9)},
    )
    assert torch.equal(draw(few)["arguments"]["angle"], draw(more)["arguments"]["angle"])


def test_batched_gives_what_single_calls_give(x):
    made = {
        batched: Kornia(
            "kornia.enhance.adjust_gamma", uniform={"gamma": (0.5, 2.0)}, batched=batched
        )
        for batched in (False, True)
    }
    params = draw(made[True])
    assert params["arguments"].keys() == draw(made[False])["arguments"].keys()
    alone, together = (made[batched](x, params) for batched in (False, True))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    canvas = made[True].on_canvas(Canvas.of(x), params)
    torch.testing.assert_close(canvas.pixels, alone, rtol=0, atol=1e-6)


def test_a_function_that_draws_is_refused_or_seeded(x):
    with pytest.raises(ValueError, match=r"noisy draws from torch.*`random: true`"):
        run(Kornia(here(noisy)), x)
    stage = Kornia(here(noisy), random=True)
    params = draw(stage)
    with global_generators_untouched():
        y = stage(x, params)
    torch.manual_seed(1)
    for out, image, own in zip(y, x.split(1), split_params(params, 3), strict=True):
        assert torch.equal(out, stage(image, own)[0])
    field = y - x
    assert field.std().item() == pytest.approx(1.0, abs=0.1)
    assert not torch.equal(field[0], field[1])


def test_no_other_device_is_seeded(x, monkeypatch):
    """torch.manual_seed would seed all devices, but only one is restored."""

    def refuse(seed):
        raise AssertionError("all devices are seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    with pytest.raises(AssertionError, match="all devices"):
        torch.manual_seed(0)
    run(Kornia(here(noisy), random=True), x)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (halved, ValueError, r"halved returned the shape \(1, 3, 16, 10\) for \(1, 3, 16, 20\)"),
        (as_double, TypeError, r"as_double returned torch\.float64; expected torch\.float32"),
        (as_list, TypeError, "as_list returned list"),
        (blown, ValueError, "blown returned NaN or infinity"),
    ],
)
def test_names_a_function_that_returns_no_image(x, function, error, message):
    with pytest.raises(error, match=message):
        run(Kornia(here(function)), x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"function": "kornia.filter.box_blur"}, r"no module 'kornia\.filter'"),
        ({"function": "kornya.filters.box_blur"}, "no module 'kornya'"),
        ({"function": "kornia.filters.box_blurr"}, "has no function 'box_blurr'.*box_blur"),
        ({"function": "kornia.filters.BoxBlur"}, "has no function 'BoxBlur'"),
        ({"function": "box_blur"}, "no module 'box_blur'"),
        ({"function": BLUR}, "missing a required argument: 'kernel_size'"),
        ({"function": BLUR, "fixed": {"kernel": 3}}, "kernel"),
        ({"function": BLUR, "uniform": {"kernel_size": (5, 3)}}, "kernel_size is .*reversed"),
        ({"function": BLUR, "integers": {"kernel_size": (3, 5.5)}}, "kernel_size is .*integers"),
        ({"function": BLUR, "choices": {"kernel_size": []}}, r"choices\.kernel_size is empty"),
        (
            {"function": BLUR, "fixed": {"kernel_size": 3}, "integers": {"kernel_size": (3, 5)}},
            "kernel_size is given twice",
        ),
        (
            {"function": BLUR, "choices": {"kernel_size": [3]}, "batched": True},
            "batched excludes choices and random",
        ),
    ],
)
def test_refuses_a_call(arguments, message):
    with pytest.raises(ValueError, match=message):
        Kornia(**arguments)


# Augmentations of kornia

AUGMENTATIONS = {
    "RandomMotionBlur": {"kernel_size": (3, 9), "angle": 90.0, "direction": 1.0},
    "RandomGaussianBlur": {"kernel_size": (5, 5), "sigma": (0.1, 2.0)},
    "RandomGaussianNoise": {"std": 0.1},
    "RandomSaltAndPepperNoise": {},
    "RandomJPEG": {"jpeg_quality": (10.0, 90.0)},
    "RandomPlasmaBrightness": {},
    "RandomPlasmaShadow": {},
    "RandomLinearIllumination": {},
    "RandomRain": {"number_of_drops": (5, 9), "drop_height": (3, 5), "drop_width": (-2, 2)},
    "RandomErasing": {},
    "RandomPosterize": {},
    "RandomPlanckianJitter": {},
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


def test_an_augmentation_draws_its_p_for_each_image():
    x = torch.full((400, 3, 2, 2), 0.2)
    y = run(KorniaAugmentation(augmentation("RandomInvert", p=0.3)), x)
    assert stats.binomtest(int((y[:, 0, 0, 0] > 0.5).sum()), 400, 0.3).pvalue > 1e-3


def test_an_augmentation_is_shown_by_its_name():
    stage = KorniaAugmentation(augmentation("RandomJPEG"))
    assert name_of(stage) == "RandomJPEG"
    assert str(stage) == "KorniaAugmentation(RandomJPEG)"


def test_an_augmentation_draws_on_the_cpu_wherever_its_stage_goes():
    stage = KorniaAugmentation(augmentation("RandomJPEG"))
    stage.to("meta", torch.float64)
    assert stage.augmentation.device == CPU
    assert stage.augmentation.dtype == torch.float32


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


@pytest.mark.parametrize("batched", [False, True])
def test_augmented_images_on_a_canvas_are_cut_out(batched, x):
    stage = KorniaAugmentation(augmentation("RandomGaussianNoise", p=1.0), batched=batched)
    sizes, params = [(16, 20), (9, 13), (4, 20)], draw(stage)
    canvas = stage.on_canvas(Canvas(x, torch.tensor(sizes), (16, 20)), params)
    for n, (h, w) in enumerate(sizes):
        alone = stage(x[n : n + 1, :, :h, :w], split_params(params, 3)[n])
        assert torch.equal(canvas.pixels[n, :, :h, :w], alone[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kornia.augmentation.RandomHorizontalFlip(), "moves pixels"),
        (lambda: kornia.augmentation.RandomAffine(10.0), "moves pixels"),
        (lambda: kornia.augmentation.RandomCrop((8, 8)), "moves pixels"),
        (lambda: kornia.augmentation.RandomElasticTransform(), "moves pixels"),
        (lambda: kornia.augmentation.RandomMixUpV2(), "mixes the images of a batch"),
        (lambda: kornia.augmentation.RandomEqualize3D(), "is not an augmentation of images"),
        (lambda: torch.nn.Identity(), "is not an augmentation of images"),
        (
            lambda: kornia.augmentation.ImageSequential(kornia.augmentation.RandomInvert()),
            "ImageSequential, which is a container: make a stage of each",
        ),
    ],
)
def test_refuses_an_augmentation(make, message):
    with pytest.raises(TypeError, match=f"{message}.*expected an intensity augmentation"):
        KorniaAugmentation(make())


def test_refuses_an_augmentation_that_shares_its_draws():
    with pytest.raises(ValueError, match=r"RandomInvert sets same_on_batch.*remove it"):
        KorniaAugmentation(augmentation("RandomInvert", same_on_batch=True))


def test_names_an_augmentation_that_makes_no_image(x):
    class Blown(kornia.augmentation.IntensityAugmentationBase2D):
        def apply_transform(self, input, params, flags, transform=None):
            return input / 0

    with pytest.raises(ValueError, match="Blown returned NaN or infinity"):
        run(KorniaAugmentation(Blown(p=1.0)), x)


# Albumentations


@pytest.fixture(scope="module")
def albumentations():
    return pytest.importorskip("albumentations")


def test_a_transform(albumentations, x):
    """By definition, white becomes black."""
    y = run(Albumentations(albumentations.InvertImg(p=1.0)), x)
    torch.testing.assert_close(y, 1 - (x * 255).round() / 255, rtol=0, atol=1e-6)
    y = run(Albumentations(albumentations.InvertImg(p=1.0), dtype="float32"), x)
    torch.testing.assert_close(y, 1 - x, rtol=0, atol=1e-6)  # not rounded


def test_its_probability_is_drawn_for_each_image(albumentations):
    x = torch.full((400, 3, 2, 2), 0.2)
    y = run(Albumentations(albumentations.InvertImg(p=0.3)), x)
    assert stats.binomtest(int((y[:, 0, 0, 0] > 0.5).sum()), 400, 0.3).pvalue > 1e-3


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_follows_from_the_image_s_seed_alone(albumentations, x, dtype):
    def make():
        group = [albumentations.GaussNoise(p=0.7), albumentations.MotionBlur(p=0.7)]
        return Albumentations(albumentations.OneOf(group, p=1.0), dtype)

    stage = make()
    params = draw(stage)
    with global_generators_untouched():
        y = stage(x, params)
    assert not torch.equal(run(stage, x, seed=50), y)
    for n in (2, 0, 1):  # in another order, by another object, by a copy
        own = split_params(params, 3)[n]
        for other in (stage, make(), pickle.loads(pickle.dumps(stage))):
            assert torch.equal(other(x[n : n + 1], own)[0], y[n])


def test_images_on_a_canvas_are_cut_out(albumentations, x):
    dropped = albumentations.XYMasking((1, 1), (0, 0), (4, 4), p=1.0)  # a bar of 4 columns
    stage = Albumentations(dropped, "float32")
    canvas = stage.on_canvas(
        Canvas(x, torch.tensor([[16, 20], [9, 13], [4, 20]]), (16, 20)), draw(stage)
    )
    assert (canvas.pixels[0] == 0).all(0).all(0).sum() == 4
    assert (canvas.pixels[1, :, :9, :13] == 0).all(0).all(0).sum() == 4
    assert torch.equal(canvas.pixels[1, :, 9:], x[1, :, 9:])


def test_names_a_transform_that_changes_the_size(albumentations, x):
    with pytest.raises(ValueError, match=r"PadIfNeeded returned uint8 \(512, 512, 3\) for uint8"):
        run(Albumentations(albumentations.PadIfNeeded(512, 512)), x)
    with pytest.raises(ValueError, match=r"ToFloat returned float32"):
        run(Albumentations(albumentations.ToFloat(p=1.0)), x)


MOVES = {
    "HorizontalFlip": {},
    "VerticalFlip": {},
    "RandomRotate90": {"p": 0.01},
    "Transpose": {},
    "D4": {},
    "Affine": {"translate_px": 1},
    "Rotate": {"limit": 1},
    "Perspective": {},
    "ElasticTransform": {},
    "GridDistortion": {},
    "OpticalDistortion": {},
    "ThinPlateSpline": {},
    "RandomGridShuffle": {},
    "RandomCrop": {"height": 8, "width": 8},
    "RandomResizedCrop": {"size": (16, 20)},
    "MaskDropout": {},  # needs a mask
}
STAYS = {
    "CoarseDropout": {},
    "GridDropout": {},
    "PixelDropout": {},
    "XYMasking": {"num_masks_x": 1, "num_masks_y": 1, "mask_x_length": 3, "mask_y_length": 3},
    "Morphological": {},
    "GlassBlur": {},
    "RandomFog": {},
    "GaussNoise": {},
    "ImageCompression": {},
    "NoOp": {},
}


@pytest.mark.parametrize("name", MOVES)
def test_refuses_what_moves_pixels(albumentations, name):
    moves = getattr(albumentations, name)(**MOVES[name])
    blur = albumentations.Blur()
    groups = [albumentations.Sequential([moves]), albumentations.OneOf([blur, moves])]
    for transform in (moves, *groups, albumentations.Compose([blur, groups[1]])):
        with pytest.raises(TypeError, match=rf"{name} (moves pixels|cannot be applied)"):
            Albumentations(transform)


@pytest.mark.parametrize("name", STAYS)
def test_takes_what_stays_in_place(albumentations, name, x):
    stage = Albumentations(albumentations.OneOf([getattr(albumentations, name)(**STAYS[name])]))
    assert run(stage, x).shape == x.shape


def test_refuses_functions_that_move_pixels():
    with pytest.raises(ValueError, match="hflip moves pixels"):
        Kornia("kornia.geometry.transform.hflip")


def test_refuses_what_is_no_transform(albumentations):
    with pytest.raises(TypeError, match=r"expected a transform of albumentations"):
        Albumentations(added)
    with pytest.raises(ValueError, match="dtype is 'float64'"):
        Albumentations(albumentations.InvertImg(), "float64")


# From YAML


def test_all_by_class_path_in_a_list_of_stages(albumentations, x):
    config = yaml.safe_load(
        """
        degradation:
          class_path: degradations.Pipeline
          init_args:
            scale: 2.0
            stages:
            - class_path: degradations.Kornia
              init_args:
                function: kornia.filters.box_blur
                integers: {kernel_size: [3, 7]}
            - class_path: degradations.KorniaAugmentation
              init_args:
                augmentation:
                  class_path: kornia.augmentation.RandomMotionBlur
                  init_args: {kernel_size: [3, 9], angle: [-90, 90], direction: 1.0, p: 0.7}
            - class_path: degradations.Albumentations
              init_args:
                transform:
                  class_path: albumentations.OneOf
                  init_args:
                    transforms:
                    - {class_path: albumentations.MotionBlur, init_args: {blur_limit: [3, 5]}}
                    - {class_path: albumentations.GaussNoise, init_args: {p: 0.5}}
            - class_path: degradations.JPEG
              init_args: {quality: [20, 90], subsampling: {"4:2:0": 0.5, "4:4:4": 0.5}}
        """
    )
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Degradation, "degradation")
    degradation = parser.instantiate(parser.parse_object(config)).degradation
    function, augmentation, transforms, jpeg = degradation.stages.values()
    assert function.integers == {"kernel_size": (3, 7)}
    assert type(augmentation.augmentation) is kornia.augmentation.RandomMotionBlur
    assert augmentation.augmentation.p == 0.7
    assert [type(t).__name__ for t in transforms.transform.transforms] == [
        "MotionBlur",
        "GaussNoise",
    ]
    assert jpeg.subsampling == (0.5, 0.0, 0.5)
    assert degradation(x, torch.arange(3)).shape == (3, 3, 8, 10)
