"""Recipes: draws compared with the papers' tables, and both executors with each other."""

from __future__ import annotations

import functools
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from torch.nn import functional

from degradations.bicubic import Bicubic
from degradations.compose import Mixture
from degradations.draws import leaves
from degradations.recipes.bsrgan import BSRGAN, ChannelNoise, SampleGaussian
from degradations.recipes.resshift import ImageNetTest, ResShift
from degradations.recipes.second_order import Order, RealESRGAN, RealESRGANLight
from degradations.stages.jpeg import JPEG
from degradations.stages.noise import hashed_fields
from degradations.stages.resize import MODES
from degradations.tools.configure import degradation_of
from tests.make import as_tensor, assert_near, drawn, make_images, photograph, uniform

SIDE = 512
PAPERS = yaml.safe_load((Path(__file__).parent / "papers.yaml").read_text())
RECIPES = [RealESRGAN, RealESRGANLight, ResShift, ImageNetTest, BSRGAN]


def mixed(scale):
    recipes = {"light": RealESRGANLight, "bsrgan": BSRGAN, "bicubic": Bicubic}
    return Mixture(scale, recipes, [0.4, 0.4, 0.2])


def params_of(recipe, count):
    return recipe.params_of(np.arange(count), torch.Size((count, 3, SIDE, SIDE)))


@functools.cache
def params_of_many(recipe):
    return params_of(recipe(4.0), 10_000)


# ------------------------------------------ laws of papers.yaml: p-values of 200 tests, fixed seeds


def is_uniform(values, low, high):
    assert len(values) > 100
    assert stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-4


def is_often(values, shares):
    """Discrete values, with probabilities by their values."""
    assert set(values.tolist()) <= set(shares)
    counts = [np.sum(values == value) for value in shares]
    expected = np.array(list(shares.values())) * len(values)
    assert stats.chisquare(counts, expected).pvalue > 1e-4


def is_any_of(values, options):
    is_often(values, dict.fromkeys(options, 1 / len(options)))


def is_chance(values, p):
    assert values.dtype == np.bool_
    is_often(values, {True: p, False: 1.0 - p})


def is_around_1(values, low, high):
    is_chance(values > 1.0, 0.5)
    is_uniform(values[values > 1.0], 1.0, high)
    if low < 1.0:
        is_uniform(values[values <= 1.0], low, 1.0)


def is_factor(values, smallest, largest, shares):
    is_often(np.sign(values - 1), dict(zip([1, -1, 0], shares, strict=True)))
    is_uniform(values[values > 1.0], 1.0, largest)
    is_uniform(values[values < 1.0], smallest, 1.0)


LAWS = {
    "uniform": lambda values, bounds: is_uniform(values, *bounds),
    "inverse": lambda values, bounds: is_uniform(1 / values, *bounds),
    "any_of": lambda values, modes: is_any_of(values, [MODES.index(mode) for mode in modes]),
    "odd": lambda values, bounds: is_any_of(values, range(bounds[0], bounds[1] + 1, 2)),
    "whole": lambda values, bounds: is_any_of(values, range(bounds[0], bounds[1] + 1)),
    "shares": is_often,
    "chance": is_chance,
    "always": lambda values, value: np.testing.assert_array_equal(values, value),
    "around_1": lambda values, bounds: is_around_1(values, *bounds),
    "factor": lambda values, arguments: is_factor(values, *arguments),
}


def value_at(params, path):
    for name in path.split("."):
        params = params[name]
    return params


ROWS = [(recipe, path) for recipe in RECIPES for path in PAPERS[recipe.__name__]]


@pytest.mark.parametrize(("recipe", "path"), ROWS)
def test_a_parameter_is_drawn_as_in_the_paper(recipe, path):
    """papers.yaml has a law for each, such as `{uniform: [0.2, 3.0]}` for a deviation of a blur.

    With `where` it holds for the images in which other parameters have these values.
    """
    params = params_of_many(recipe)
    laws = PAPERS[recipe.__name__][path]

    for law in laws if isinstance(laws, list) else [laws]:
        values = value_at(params, path)
        for other, options in law.get("where", {}).items():
            values = values[np.isin(value_at(params, other), options)]
        for name in law.keys() - {"where"}:
            LAWS[name](values, law[name])


@pytest.mark.parametrize("recipe", [RealESRGAN, ResShift])
def test_a_second_order_is_resize_and_noise_and_for_some_images_a_blur(recipe):
    """An image has all of it or none, as ResShift gives a second order to half of them."""
    params = params_of_many(recipe)

    resized = params["resize2"]["applied"]
    blurred = params["blur2"]["applied"]
    np.testing.assert_array_equal(params["noise2"]["applied"], resized)
    assert resized[blurred].all()


SECOND_ORDER = [recipe for recipe in RECIPES if recipe is not BSRGAN]


@pytest.mark.parametrize("recipe", SECOND_ORDER)
def test_steps_are_those_of_the_paper_and_only_real_esrgan_sharpens(recipe):
    steps = {path.partition(".")[0] for path in PAPERS[recipe.__name__]}
    if recipe in {RealESRGAN, RealESRGANLight}:
        steps |= {"usm"}
    assert params_of_many(recipe).keys() == steps


@pytest.mark.parametrize("recipe", SECOND_ORDER)
def test_isotropic_kernels_have_one_deviation(recipe):
    kernel = params_of_many(recipe)["blur"]["stage"]
    is_isotropic = kernel["family"] % 2 == 0  # 0, 2 and 4, by papers.yaml
    deviations = kernel["sigma_x"][is_isotropic]
    np.testing.assert_array_equal(kernel["sigma_y"][is_isotropic], deviations)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_factor_of_resize_is_relative_to_hr_and_that_of_resize2_to_lr(recipe):
    """As in the released code; sides are rounded down. At x4 LR has a quarter of HR's side."""
    for path in PAPERS[recipe.__name__]:
        if path.endswith(".factor"):
            resize = value_at(params_of_many(recipe), path.removesuffix(".factor"))
            side = SIDE / 4 if path.startswith("resize2") else SIDE
            np.testing.assert_array_equal(resize["size"][:, 0], np.floor(side * resize["factor"]))


def test_one_range_in_yaml_leaves_the_others_of_the_recipe(tmp_path):
    content = "{class_path: degradations.ImageNetTest, init_args: {first: {sigma: [0.5, 0.6]}}}"
    (tmp_path / "a.yaml").write_text(content)

    params = params_of(degradation_of([tmp_path / "a.yaml"], scale=4.0), 2000)

    is_uniform(params["blur"]["stage"]["sigma_x"], 0.5, 0.6)
    # As papers.yaml has it of ImageNetTest:
    is_any_of(params["blur"]["stage"]["kernel_size"], range(3, 12, 2))
    is_uniform(params["noise"]["poisson"]["strength"], 0.05, 0.3)


def test_final_compresses_after_resize_and_sinc_or_before_them():
    final = RealESRGAN(2.0).stages["final"]
    image = make_images(1, (32, 32))
    params = drawn(final, count=1, size=(32, 32))

    jpeg_last = final(image, params | {"jpeg_last": torch.tensor([True])})
    jpeg_first = final(image, params | {"jpeg_last": torch.tensor([False])})

    resized = final.resize(image, params["resize"])
    filtered = final.sinc(resized, params["sinc"])
    assert torch.equal(jpeg_last, final.jpeg(filtered, params["jpeg"]))
    compressed = final.jpeg(image, params["jpeg"])
    resized = final.resize(compressed, params["resize"])
    assert torch.equal(jpeg_first, final.sinc(resized, params["sinc"]))


# ----------------------------------------------------------------- as the released code: faithful

# By the released code of Real-ESRGAN and ResShift.
ONCE_A_BATCH = {
    "resize.factor",
    "resize.mode",
    "resize2.stage.factor",
    "resize2.stage.mode",
    "noise.which",
    "noise2.stage.which",
    "blur2.applied",
    "final.jpeg_last",
    "final.resize.mode",
}


@pytest.mark.parametrize("recipe", [RealESRGAN, RealESRGANLight, ResShift])
def test_faithful_draws_once_a_batch_what_upstream_does(recipe):
    """And all else for each image, unless the recipe has only one value for it."""
    shared = set(ONCE_A_BATCH)
    if recipe is ResShift:
        shared |= {"resize2.applied", "noise2.applied"}
    without_faithful = dict(leaves(params_of_many(recipe)))

    batch = params_of(recipe(4.0, faithful=True), 100)

    for path, values in leaves(batch):
        if np.ndim(values) == 1:  # one number an image
            is_constant = path in shared or len(set(without_faithful[path])) == 1
            assert (len(set(values)) == 1) == is_constant, path


def test_faithful_draws_differ_between_batches():
    faithful = RealESRGAN(4.0, faithful=True)
    shape = torch.Size((1, 3, SIDE, SIDE))

    factors = {faithful.params_of([seed], shape)["resize"]["factor"][0] for seed in range(99)}

    assert len(factors) > 50  # of 99; a tenth of the factors are 1


def test_faithful_jpegs_repeat_subsampled_chroma_instead_of_interpolating_it():
    """As Real-ESRGAN's code does. So LR has more detail in its colours than other decoders give.

    Interpolation leaves 0.7 of the differences between neighbours in chroma, and all in luma.
    """
    image = as_tensor(photograph(256, 256, "coffee", corner=0))
    recipe = RealESRGAN(4.0, usm=False, faithful=True)

    def detail(x):
        return x.diff(dim=-1).square().mean((1, 2, 3)).sqrt()

    def chroma_and_luma():
        lr = torch.cat([recipe(image, torch.tensor([seed])) for seed in range(30)])
        luma = lr.mean(1, keepdim=True)
        return detail(lr - luma), detail(luma)

    chroma, luma = chroma_and_luma()
    for jpeg in (recipe.stages["jpeg"], recipe.stages["final"].jpeg):
        assert not jpeg.smooth_chroma
        assert jpeg.transposed_tables
        jpeg.smooth_chroma = True
    smoothed_chroma, same_luma = chroma_and_luma()

    assert 0.6 < (smoothed_chroma / chroma).median() < 0.8
    assert 0.97 < (same_luma / luma).median() < 1.03


# ----------------------------------------------------------------------------------------- BSRGAN


def test_bsrgan_shuffles_but_shrinks_before_the_lr():
    order = params_of_many(BSRGAN)["shuffled"]["order"]

    places = np.argsort(order, axis=1)  # of the six stages, for each image
    blur, blur2, shrink, to_lr, noise, jpeg = places.T
    assert (shrink < to_lr).all()
    for place in (blur, blur2, noise, jpeg):
        is_any_of(place, range(6))
    # The smaller of two different places of six: 5, 4, ... 0 of 15 pairs.
    is_often(shrink, {k: (5 - k) / 15 for k in range(5)})


@pytest.mark.parametrize("divisor", [2, 3])
def test_blurring_and_taking_every_nth_pixel_shifts_nothing(divisor):
    """Else LR would not lie on HR. A ramp stays one: an LR pixel has the value at its centre.

    For an even n no HR pixel lies there, so the Gaussian is shifted by half a pixel.
    """
    stage = SampleGaussian(float(divisor), sigma=(1.5, 1.5))
    side = 12 * divisor
    ramp = (torch.arange(side) / side).expand(1, 3, side, side)
    params = drawn(stage, count=1, size=(side, side))

    across = stage(ramp, params)[0, 0, 6]
    down = stage(ramp.mT, params)[0, 0, :, 6]

    centres = ((torch.arange(12) + 0.5) * divisor - 0.5) / side
    assert_near(across[4:8], centres[4:8], 1e-5)  # away from the mirrored borders
    assert_near(down[4:8], centres[4:8], 1e-5)


def test_channel_noise_has_the_drawn_covariance():
    stage = ChannelNoise()
    images = torch.full((60, 3, 64, 64), 0.5)
    params = drawn(stage, len(images))

    noise = (stage(images, params) - images).flatten(2) * 255

    for n, family in enumerate(params["family"].tolist()):
        variance = params["level"][n].item() ** 2
        correlated = params["factor"][n] @ params["factor"][n].T
        # By family: independent, grey and correlated channels.
        expected = [np.eye(3) * variance, np.full((3, 3), variance), correlated.numpy()][family]
        tolerance = 0.1 * max(expected.max(), 1)  # of 64x64 pixels
        np.testing.assert_allclose(noise[n].cov(), expected, atol=tolerance)
        if family == 2:
            # Eigenvalues are at most the largest level squared, 25^2; then the released code takes
            # absolute values of the entries: sqrt(3) times at most, and here less than 1.6.
            assert np.linalg.eigvalsh(expected).max() <= 25**2 * 1.6
            assert expected.min() >= -1e-3


# ---------------------------------------------------------------------------------------- mixture


def of_image(params, n):
    """The parameters of image `n` alone."""
    if isinstance(params, dict):
        return {name: of_image(value, n) for name, value in params.items()}
    return params[n : n + 1]


def test_a_mixture_draws_recipes_by_their_weights():
    is_often(params_of_many(mixed)["which"], {0: 0.4, 1: 0.4, 2: 0.2})


def test_each_image_of_a_mixture_gets_what_its_recipe_gives():
    mixture = mixed(2.0)
    hr = uniform(12, 3, 24, 20)
    params = mixture.params_of(torch.arange(12), hr.shape)

    lr = mixture(hr, torch.arange(12))

    names = list(mixture.recipes)
    assert set(params["which"]) == {0, 1, 2}
    for n, which in enumerate(params["which"]):
        name = names[which]
        alone = mixture.recipes[name].replay(hr[n : n + 1], of_image(params[name], n))
        assert torch.equal(alone[0], lr[n])


# ------------------------------------------------------------------ one by one, and on a canvas


def always_blurred_twice(scale, **settings):
    return ResShift(scale, second=Order(blur=1.0, kernel_size=(3, 13)), **settings)


@pytest.mark.parametrize("recipe", [*RECIPES, always_blurred_twice])
def test_both_executors_give_the_same_lr(monkeypatch, recipe):
    """Without JPEG, in which a value near a half that is rounded differently changes a whole block.

    Poisson noise depends on rounded values, too: with some processors one in a thousand differs.
    """
    monkeypatch.setattr(JPEG, "image_functions", lambda jpeg, params, x: [torch.clone] * len(x))
    monkeypatch.setattr(JPEG, "on_canvas", lambda jpeg, canvas, params: canvas)
    hr = make_images(6, (96, 80))
    seeds = torch.arange(6)

    with hashed_fields():
        one_by_one = recipe(4.0, quantize=False, executor="images")(hr, seeds)
        together = recipe(4.0, quantize=False, executor="canvas")(hr, seeds)

    is_other = (one_by_one - together).abs() > 1e-4
    assert is_other.float().mean() <= 1e-3


@pytest.mark.slow  # the compiler takes minutes
def test_a_compiled_canvas_gives_the_lr_of_a_plain_one_but_for_blocks_of_jpeg():
    """JPEG amplifies roundings that differ: a block may change as a whole."""
    hr = make_images(4, (64, 64))
    plain = RealESRGAN(4.0, executor="canvas", compile=False)

    with patch.object(torch, "compile", wraps=torch.compile) as compiler:
        lr = RealESRGAN(4.0, executor="canvas", compile=True)(hr, torch.arange(4))

    assert compiler.called
    is_off = (lr - plain(hr, torch.arange(4))).abs() > 1.02 / 255  # more than a level
    blocks = functional.max_pool2d(is_off.any(1, keepdim=True).float(), 8)
    assert blocks.sum() <= 2  # of the 16 blocks of 8 x 8 pixels
