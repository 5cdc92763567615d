"""Recipes: draws compared with the papers' tables, and both executors with each other."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

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
from tests.launches import count_launches
from tests.make import as_tensor, assert_near, drawn, make_images, photograph, uniform

SIDE = 512
PAPERS = yaml.safe_load((Path(__file__).parent / "papers.yaml").read_text())
ORDERS = [  # recipe, name of the order, suffix of its stages
    (RealESRGAN, "first", ""),
    (RealESRGAN, "second", "2"),
    (RealESRGANLight, "first", ""),
    (ResShift, "first", ""),
    (ResShift, "second", "2"),
    (ImageNetTest, "first", ""),
]


def mixed(scale):
    recipes = {"light": RealESRGANLight, "bsrgan": BSRGAN, "bicubic": Bicubic}
    return Mixture(scale, recipes, [0.4, 0.4, 0.2])


def params_of(recipe, count):
    return recipe.params_of(np.arange(count), torch.Size((count, 3, SIDE, SIDE)))


@functools.cache
def params_of_many(recipe):
    return params_of(recipe(4.0), 10_000)


# ------------------------------------------- expectations: p-values of some 250 tests, fixed seeds


def is_uniform(values, low, high):
    assert len(values) > 100
    assert stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-4


def is_often(values, p):
    """Discrete values, with probabilities by their values."""
    possible = [value for value, share in p.items() if share > 0]
    assert set(values.tolist()) <= set(possible)
    if len(possible) > 1:
        counts = [np.sum(values == value) for value in possible]
        shares = np.array([p[value] for value in possible])
        expected = shares / shares.sum() * len(values)
        assert stats.chisquare(counts, expected).pvalue > 1e-4


def is_any_of(values, options):
    is_often(values, dict.fromkeys(options, 1.0))


def is_chance(values, p):
    assert values.dtype == np.bool_
    is_often(values, {True: p, False: 1.0 - p})


def odd(bounds):
    return range(bounds[0], bounds[1] + 1, 2)


def whole(bounds):
    return range(bounds[0], bounds[1] + 1)


# ------------------------------------------------------------------------ recipes of two orders


@pytest.mark.parametrize(("recipe", "order", "suffix"), ORDERS)
def test_kernels_are_drawn_as_in_the_paper(recipe, order, suffix):
    paper = PAPERS[recipe.__name__][order]

    kernel = params_of_many(recipe)[f"blur{suffix}"]["stage"]

    size = kernel["kernel_size"]
    family = kernel["family"]
    elongated = family % 2 == 1
    is_any_of(size, odd(paper["sizes"]))
    is_often(family, dict(enumerate(paper["families"])))
    is_uniform(kernel["sigma_x"], *paper["sigma"])
    is_uniform(kernel["sigma_y"][elongated], *paper["sigma"])
    is_uniform(kernel["rotation"][elongated], -math.pi, math.pi)
    np.testing.assert_array_equal(kernel["sigma_y"][~elongated], kernel["sigma_x"][~elongated])
    is_chance(kernel["sinc"], paper["sinc"])
    is_uniform(kernel["cutoff"][size < 13], math.pi / 3, math.pi)
    if size.max() >= 13:
        is_uniform(kernel["cutoff"][size >= 13], math.pi / 5, math.pi)


@pytest.mark.parametrize(("recipe", "order", "suffix"), ORDERS[:5])  # the last one is Gaussian
@pytest.mark.parametrize(("kind", "families"), [("generalized", [2, 3]), ("plateau", [4, 5])])
def test_beta_is_above_and_below_1_equally_often(recipe, order, suffix, kind, families):
    low, high = PAPERS[recipe.__name__][order][kind]

    kernel = params_of_many(recipe)[f"blur{suffix}"]["stage"]

    beta = kernel["beta"][np.isin(kernel["family"], families)]
    is_chance(beta > 1.0, 0.5)
    is_uniform(beta[beta > 1.0], 1.0, high)
    if low < 1.0:
        is_uniform(beta[beta <= 1.0], low, 1.0)


@pytest.mark.parametrize(("recipe", "order", "suffix"), ORDERS)
def test_factors_and_kernels_of_resizes_are_those_of_the_paper(recipe, order, suffix):
    paper = PAPERS[recipe.__name__][order]
    smallest, largest = paper["factors"]
    side = SIDE if order == "first" else SIDE / 4

    params = params_of_many(recipe)[f"resize{suffix}"]

    resize = params.get("stage", params)
    factor = resize["factor"]
    up_down_kept = np.select([factor > 1.0, factor < 1.0], [0, 1], 2)
    is_often(up_down_kept, dict(enumerate(paper["resize"])))
    is_uniform(factor[factor > 1.0], 1.0, largest)
    is_uniform(factor[factor < 1.0], smallest, 1.0)
    is_any_of(resize["mode"], [MODES.index(mode) for mode in ("area", "bilinear", "bicubic")])
    assert not resize["antialias"].any()
    np.testing.assert_array_equal(resize["size"][:, 0], np.floor(side * factor))


@pytest.mark.parametrize(("recipe", "order", "suffix"), ORDERS)
def test_noise_is_drawn_as_in_the_paper(recipe, order, suffix):
    paper = PAPERS[recipe.__name__][order]

    params = params_of_many(recipe)[f"noise{suffix}"]

    noise = params.get("stage", params)
    is_often(noise["which"], {0: paper["gaussian"], 1: 1.0 - paper["gaussian"]})
    is_uniform(noise["gaussian"]["levels"], *paper["levels"])
    is_uniform(noise["poisson"]["strength"], *paper["poisson"])
    is_chance(noise["gaussian"]["grey"], paper["grey"])
    is_chance(noise["poisson"]["grey"], paper["grey"])


@pytest.mark.parametrize("recipe", [RealESRGAN, ResShift])
def test_how_often_there_is_a_second_order(recipe):
    paper = PAPERS[recipe.__name__]

    params = params_of_many(recipe)

    resized = params["resize2"]["applied"]
    blurred = params["blur2"]["applied"]
    is_chance(resized, paper["second_p"])
    is_chance(blurred, paper["blur2_p"])
    np.testing.assert_array_equal(params["noise2"]["applied"], resized)
    assert not (blurred & ~resized).any()
    assert params["blur"]["applied"].all()


@pytest.mark.parametrize("recipe", [RealESRGAN, RealESRGANLight, ResShift, ImageNetTest])
def test_jpeg_and_the_last_steps_are_those_of_the_paper(recipe):
    paper = PAPERS[recipe.__name__]

    params = params_of_many(recipe)

    final = params["final"]
    assert ("jpeg" in params) == ("jpeg" in paper)
    assert ("blur2" in params) == ("second" in paper)
    assert ("usm" in params) == paper["usm"]
    if "jpeg" in params:
        is_any_of(params["jpeg"]["quality"], whole(paper["jpeg"]))
    is_any_of(final["jpeg"]["quality"], whole(paper["final_jpeg"]))
    assert set(final["jpeg"]["subsampling"]) == {2}  # 4:2:0
    is_chance(final["jpeg_last"], 0.5)
    is_chance(final["sinc"]["applied"], paper["final_sinc"])
    is_any_of(final["sinc"]["stage"]["kernel_size"], odd(paper["final_sizes"]))
    is_uniform(final["sinc"]["stage"]["cutoff"], math.pi / 3, math.pi)
    is_any_of(final["resize"]["mode"], range(3))
    assert set(final["resize"]["size"].flat) == {SIDE // 4}


def test_one_range_in_yaml_leaves_the_others_of_the_recipe(tmp_path):
    content = "{class_path: degradations.ImageNetTest, init_args: {first: {sigma: [0.5, 0.6]}}}"
    (tmp_path / "a.yaml").write_text(content)

    params = params_of(degradation_of([tmp_path / "a.yaml"], 4.0), 2000)

    is_uniform(params["blur"]["stage"]["sigma_x"], 0.5, 0.6)
    is_any_of(params["blur"]["stage"]["kernel_size"], range(3, 12, 2))
    is_uniform(params["noise"]["poisson"]["strength"], 0.05, 0.3)


def test_the_last_steps_in_both_orders():
    final = RealESRGAN(2.0).stages["final"]
    image = make_images(1, (32, 32))
    params = drawn(final, 1, (32, 32))

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
    shared = set(ONCE_A_BATCH)
    if recipe is ResShift:
        shared |= {"resize2.applied", "noise2.applied"}
    of_each_image = dict(leaves(params_of_many(recipe)))

    batch = params_of(recipe(4.0, faithful=True), 100)

    for path, values in leaves(batch):
        if np.ndim(values) == 1:
            may_vary = len(set(of_each_image[path])) > 1 and path not in shared
            assert (len(set(values)) > 1) == may_vary, path


def test_faithful_draws_differ_between_batches():
    faithful = RealESRGAN(4.0, faithful=True)
    shape = torch.Size((1, 3, SIDE, SIDE))

    factors = {faithful.params_of([seed], shape)["resize"]["factor"][0] for seed in range(99)}

    assert len(factors) > 50  # some are 1


def test_faithful_repeats_the_chroma_of_a_jpeg():
    """By distribution: smoothed, LR has some 0.7 of the finest detail in chroma, and equal luma."""
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


@pytest.mark.parametrize(
    ("halved", "variance", "sigma", "sampled", "shrunk"),
    [(False, 8.0, 2.8, 2.4, 8.0), (True, 6.0, 2.4, 1.2, 4.0)],
)
def test_blurs_and_sampling_of_bsrgan(halved, variance, sigma, sampled, shrunk):
    """Zhang et al., section 3; x4. Halved images have the ranges of x2."""
    params = params_of_many(BSRGAN)

    shuffled = params["shuffled"]
    part = params["halve"]["applied"] == halved
    for blur in (shuffled["blur"], shuffled["blur2"]):
        is_uniform(blur["variance_x"][part], 0.5, variance)
        is_uniform(blur["variance_y"][part], 0.5, variance)
        is_uniform(blur["sigma"][part], 0.1, sigma)
        is_uniform(blur["rotation"][part], 0.0, math.pi)
        is_chance(blur["isotropic"][part], 0.5)
        is_any_of(blur["kernel_size"][part], range(7, 22, 2))
    side = SIDE / 2 if halved else SIDE
    factor = shuffled["shrink"]["resize"]["factor"][part]
    is_often(shuffled["shrink"]["which"][part], {0: 0.75, 1: 0.25})
    is_uniform(shuffled["shrink"]["sample"]["sigma"][part], 0.1, sampled)
    is_uniform(side / SIDE / factor, 1.0, shrunk)


def test_resize_noise_and_jpeg_of_bsrgan():
    params = params_of_many(BSRGAN)

    shuffled = params["shuffled"]
    resize = shuffled["shrink"]["resize"]
    is_chance(params["halve"]["applied"], 0.25)
    np.testing.assert_array_equal(resize["size"][:, 0], np.floor(SIDE * resize["factor"]))
    is_any_of(resize["mode"], range(3))
    is_any_of(shuffled["noise"]["level"], range(1, 26))
    is_often(shuffled["noise"]["family"], {0: 0.4, 1: 0.4, 2: 0.2})
    is_chance(shuffled["jpeg"]["applied"], 0.9)
    is_any_of(shuffled["jpeg"]["stage"]["quality"], range(30, 96))
    is_any_of(params["final_jpeg"]["quality"], range(30, 96))
    assert set(shuffled["to_lr"]["size"].flat) == {SIDE // 4}


def test_bsrgan_shuffles_but_shrinks_before_the_lr():
    order = params_of_many(BSRGAN)["shuffled"]["order"]

    place = np.argsort(order, axis=1)  # of blur, blur2, shrink, to_lr, noise, jpeg
    shrink = place[:, 2]
    to_lr = place[:, 3]
    assert (shrink < to_lr).all()
    for stage in (0, 1, 4, 5):
        is_any_of(place[:, stage], range(6))
    # The smaller of two different places of six: 5, 4, ... 0 of 15 pairs.
    is_often(shrink, {k: (5 - k) / 15 for k in range(5)})


@pytest.mark.parametrize("divisor", [2, 3])
def test_sampling_a_gaussian_shifts_nothing(divisor):
    stage = SampleGaussian(float(divisor), sigma=(1.5, 1.5))
    side = 12 * divisor
    ramp = (torch.arange(side) / side).expand(1, 3, side, side)
    params = drawn(stage, 1, (side, side))

    across = stage(ramp, params)[0, 0, 6]
    down = stage(ramp.mT, params)[0, 0, :, 6]

    centres = ((torch.arange(12) + 0.5) * divisor - 0.5) / side
    assert_near(across[4:8], centres[4:8], 1e-5)  # away from the mirrored borders
    assert_near(down[4:8], centres[4:8], 1e-5)


def test_channel_noise_has_the_drawn_covariance():
    stage = ChannelNoise()
    images = torch.full((60, 3, 64, 64), 0.5)
    params = drawn(stage, 60)

    noise = (stage(images, params) - images).flatten(2) * 255

    for n, family in enumerate(params["family"].tolist()):
        variance = params["level"][n].item() ** 2
        correlated = params["factor"][n] @ params["factor"][n].T
        expected = [np.eye(3) * variance, np.full((3, 3), variance), correlated.numpy()][family]
        tolerance = 0.1 * max(expected.max(), 1)
        np.testing.assert_allclose(noise[n].cov(), expected, atol=tolerance)
        if family == 2:
            assert np.linalg.eigvalsh(expected).max() <= 25**2 * 1.6
            assert expected.min() >= -1e-3  # the source takes absolute values


# ---------------------------------------------------------------------------------------- mixture


def of_image(params, n):
    """The parameters of image `n` alone."""
    if isinstance(params, dict):
        return {name: of_image(value, n) for name, value in params.items()}
    return params[n : n + 1]


def test_each_image_of_a_mixture_gets_what_its_recipe_gives():
    mixture = mixed(2.0)
    hr = uniform(12, 3, 24, 20)
    params = mixture.params_of(torch.arange(12), hr.shape)

    lr = mixture(hr, torch.arange(12))

    names = list(mixture.recipes)
    is_often(params_of_many(mixed)["which"], {0: 0.4, 1: 0.4, 2: 0.2})
    assert set(params["which"]) == {0, 1, 2}
    for n, which in enumerate(params["which"]):
        name = names[which]
        alone = mixture.recipes[name].replay(hr[n : n + 1], of_image(params[name], n))
        assert torch.equal(alone[0], lr[n])


# ------------------------------------------------------------------ one by one, and on a canvas


def always_blurred_twice(scale, **settings):
    return ResShift(scale, second=Order(blur=1.0, kernel_size=(3, 13)), **settings)


@pytest.mark.parametrize(
    "recipe",
    [RealESRGAN, RealESRGANLight, ResShift, always_blurred_twice, ImageNetTest, BSRGAN],
)
def test_both_executors_give_the_same_lr(monkeypatch, recipe):
    """But for JPEG: a value near a half that is rounded differently changes a whole block.

    Poisson noise depends on rounded values: one of them may differ, by the processor.
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


@pytest.mark.slow  # the compiler's plan takes a minute
def test_a_budget_of_launches_and_bytes():
    """Of 16 images of 256 px; the bytes are 0.3 ms of an H200, tables included. May only fall."""
    hr = torch.zeros(16, 3, 256, 256)

    launches = count_launches(RealESRGAN(4.0, usm=False), hr, torch.arange(16))

    assert launches.kernels <= 48, launches
    assert launches.library <= 24, launches
    assert launches.bytes <= 1.39e9, launches


@pytest.mark.slow  # the compiler takes minutes
def test_the_compiled_canvas():
    hr = make_images(4, (64, 64))
    compiled = RealESRGAN(4.0, executor="canvas", compile=True)
    plain = RealESRGAN(4.0, executor="canvas", compile=False)

    lr = compiled(hr, torch.arange(4))

    off = (lr - plain(hr, torch.arange(4))).abs()
    assert (off > 1.02 / 255).float().mean() <= 0.12  # as of the two executors
