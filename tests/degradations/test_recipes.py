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

from degradations.base import Canvas
from degradations.bicubic import Bicubic
from degradations.compose import Mixture
from degradations.draws import Draws, split_params, to_device
from degradations.recipes.bsrgan import BSRGAN, ChannelNoise, SampleGaussian
from degradations.recipes.resshift import ImageNetTest, ResShift
from degradations.recipes.second_order import Order, RealESRGAN, RealESRGANLight
from degradations.stages.noise import hashed_fields
from degradations.stages.resize import MODES
from degradations.tools.configure import degradation_of
from tests.contracts.degradation_contract import padded
from tests.launches import count_launches, count_operators
from tests.make import as_tensor, make_images, photograph, uniform

CPU = torch.device("cpu")
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


@functools.cache
def drawn(recipe):
    """The parameters of 10,000 images."""
    return recipe(4.0).params_of(np.arange(10_000), torch.Size((10_000, 3, SIDE, SIDE)))


# ------------------------------------------- expectations: p-values of some 250 tests, fixed seeds


def is_uniform(values, low, high):
    assert len(values) > 100
    assert stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-4


def is_often(values, p):
    """Discrete values, with probabilities by their values."""
    possible = {key: share for key, share in p.items() if share > 0}
    assert set(np.unique(values).tolist()) <= set(possible)
    if len(possible) > 1:
        counts = [np.sum(values == key) for key in possible]
        shares = np.array(list(possible.values()))
        assert stats.chisquare(counts, shares / shares.sum() * len(values)).pvalue > 1e-4


def is_any_of(values, options):
    is_often(values, dict.fromkeys(options, 1.0))


def is_chance(values, p):
    assert values.dtype == np.bool_
    is_often(values, {True: p, False: 1.0 - p})


def odd(bounds):
    return range(bounds[0], bounds[1] + 1, 2)


# ------------------------------------------------------------------------ recipes of two orders


@pytest.mark.parametrize(("recipe", "order", "suffix"), ORDERS)
def test_blur(recipe, order, suffix):
    paper = PAPERS[recipe.__name__][order]

    kernel = drawn(recipe)[f"blur{suffix}"]["stage"]

    size = kernel["kernel_size"]
    family = kernel["family"]
    is_any_of(size, odd(paper["sizes"]))
    is_chance(kernel["sinc"], paper["sinc"])
    is_often(family, dict(enumerate(paper["families"])))
    is_uniform(kernel["sigma_x"], *paper["sigma"])
    elongated = family % 2 == 1
    is_uniform(kernel["sigma_y"][elongated], *paper["sigma"])
    is_uniform(kernel["rotation"][elongated], -math.pi, math.pi)
    np.testing.assert_array_equal(kernel["sigma_y"][~elongated], kernel["sigma_x"][~elongated])
    for sizes, lowest in ((size < 13, math.pi / 3), (size >= 13, math.pi / 5)):
        if sizes.any():
            is_uniform(kernel["cutoff"][sizes], lowest, math.pi)


@pytest.mark.parametrize(("recipe", "order", "suffix"), ORDERS[:5])  # the last one is Gaussian
@pytest.mark.parametrize(("kind", "first_family"), [("generalized", 2), ("plateau", 4)])
def test_beta_is_above_and_below_1_equally_often(recipe, order, suffix, kind, first_family):
    low, high = PAPERS[recipe.__name__][order][kind]

    kernel = drawn(recipe)[f"blur{suffix}"]["stage"]

    beta = kernel["beta"][kernel["family"] // 2 == first_family // 2]
    is_chance(beta > 1.0, 0.5)
    is_uniform(beta[beta > 1.0], 1.0, high)
    if low < 1.0:
        is_uniform(beta[beta <= 1.0], low, 1.0)


@pytest.mark.parametrize(("recipe", "order", "suffix"), ORDERS)
def test_resize(recipe, order, suffix):
    paper = PAPERS[recipe.__name__][order]

    resize = drawn(recipe)[f"resize{suffix}"]
    resize = resize.get("stage", resize)

    factor = resize["factor"]
    smallest, largest = paper["factors"]
    kind = np.select([factor > 1.0, factor < 1.0], [0, 1], 2)
    is_often(kind, dict(enumerate(paper["resize"])))
    is_uniform(factor[kind == 0], 1.0, largest)
    is_uniform(factor[kind == 1], smallest, 1.0)
    is_any_of(resize["mode"], [MODES.index(mode) for mode in ("area", "bilinear", "bicubic")])
    assert not resize["antialias"].any()
    side = SIDE if order == "first" else SIDE / 4
    np.testing.assert_array_equal(resize["size"][:, 0], np.floor(side * factor))


@pytest.mark.parametrize(("recipe", "order", "suffix"), ORDERS)
def test_noise(recipe, order, suffix):
    paper = PAPERS[recipe.__name__][order]

    noise = drawn(recipe)[f"noise{suffix}"]
    noise = noise.get("stage", noise)

    is_often(noise["which"], {0: paper["gaussian"], 1: 1.0 - paper["gaussian"]})
    is_uniform(noise["gaussian"]["levels"], *paper["levels"])
    is_uniform(noise["poisson"]["strength"], *paper["poisson"])
    is_chance(noise["gaussian"]["grey"], paper["grey"])
    is_chance(noise["poisson"]["grey"], paper["grey"])


@pytest.mark.parametrize("recipe", [RealESRGAN, ResShift])
def test_how_often_there_is_a_second_order(recipe):
    paper = PAPERS[recipe.__name__]
    params = drawn(recipe)

    resized = params["resize2"]["applied"]
    blurred = params["blur2"]["applied"]

    is_chance(resized, paper["second_p"])
    is_chance(blurred, paper["blur2_p"])
    np.testing.assert_array_equal(params["noise2"]["applied"], resized)
    assert not (blurred & ~resized).any()
    assert params["blur"]["applied"].all()


@pytest.mark.parametrize("recipe", [RealESRGAN, RealESRGANLight, ResShift, ImageNetTest])
def test_jpeg_and_the_last_steps(recipe):
    paper = PAPERS[recipe.__name__]
    params = drawn(recipe)
    final = params["final"]

    assert ("jpeg" in params) == ("jpeg" in paper)
    assert ("blur2" in params) == ("second" in paper)
    assert ("usm" in params) == paper["usm"]
    if "jpeg" in params:
        lowest, highest = paper["jpeg"]
        is_any_of(params["jpeg"]["quality"], range(lowest, highest + 1))
    lowest, highest = paper["final_jpeg"]
    is_any_of(final["jpeg"]["quality"], range(lowest, highest + 1))
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

    order = degradation_of([tmp_path / "a.yaml"], 4.0)

    params = order.params_of(np.arange(2000), torch.Size((2000, 3, SIDE, SIDE)))
    is_uniform(params["blur"]["stage"]["sigma_x"], 0.5, 0.6)
    is_any_of(params["blur"]["stage"]["kernel_size"], range(3, 12, 2))
    is_uniform(params["noise"]["poisson"]["strength"], 0.05, 0.3)


def test_the_last_steps_in_both_orders():
    recipe = RealESRGAN(2.0, quantize=False)
    final = recipe.stages["final"]
    x = make_images(1, (32, 32))
    params = to_device(recipe.params_of(np.array([3]), x.shape), 1, CPU)["final"]

    jpeg_last = final(x, params | {"jpeg_last": torch.tensor([True])})
    jpeg_first = final(x, params | {"jpeg_last": torch.tensor([False])})

    resized = final.sinc(final.resize(x, params["resize"]), params["sinc"])
    assert torch.equal(jpeg_last, final.jpeg(resized, params["jpeg"]))
    compressed = final.jpeg(x, params["jpeg"])
    expected = final.sinc(final.resize(compressed, params["resize"]), params["sinc"])
    assert torch.equal(jpeg_first, expected)


# ----------------------------------------------------------------- as the released code: faithful


def numbers(params, path=""):
    """The drawn arrays by their paths, without the seeds of fields."""
    result = {}
    for name, value in params.items():
        if isinstance(value, dict):
            result |= numbers(value, f"{path}{name}.")
        elif value.ndim == 1 and not name.endswith("seeds"):
            result[path + name] = value
    return result


# By the released code of Real-ESRGAN and ResShift.
ONCE_A_BATCH = {
    *("resize.factor", "resize.mode", "resize2.stage.factor", "resize2.stage.mode"),
    *("noise.which", "noise2.stage.which", "blur2.applied"),
    *("final.jpeg_last", "final.resize.mode"),
}


@pytest.mark.parametrize("recipe", [RealESRGAN, RealESRGANLight, ResShift])
def test_faithful_draws_once_a_batch_what_upstream_does(recipe):
    once = {path for path in ONCE_A_BATCH if path.split(".")[0] in recipe(4.0).stages}
    if recipe is ResShift:
        once |= {"resize2.applied", "noise2.applied"}
    faithful = recipe(4.0, faithful=True)

    batch = faithful.params_of(np.arange(100), torch.Size((100, 3, SIDE, SIDE)))

    each_image = numbers(drawn(recipe))
    for path, values in numbers(batch).items():
        may_vary = len(set(each_image[path].tolist())) > 1 and path not in once
        assert (len(set(values.tolist())) > 1) == may_vary, path


@pytest.mark.parametrize("recipe", [RealESRGAN, ResShift])
def test_faithful_draws_differ_between_batches(recipe):
    faithful = recipe(4.0, faithful=True)
    shape = torch.Size((2, 3, SIDE, SIDE))

    factors = [faithful.params_of([n, n + 1], shape)["resize"]["factor"][0] for n in range(99)]

    assert len(set(factors)) > 50  # some are 1


def test_faithful_repeats_the_chroma_of_a_jpeg():
    """By distribution: smoothed, LR has some 0.7 of the finest detail in chroma, and equal luma."""
    x = as_tensor(photograph(256, 256, "coffee", corner=0))

    def detail(smooth):
        recipe = RealESRGAN(4.0, usm=False, faithful=True)
        for jpeg in (recipe.stages["jpeg"], recipe.stages["final"].jpeg):
            assert not jpeg.smooth_chroma
            assert jpeg.transposed_tables
            jpeg.smooth_chroma = smooth
        lr = torch.cat([recipe(x, torch.tensor([seed])) for seed in range(30)])
        luma = lr.mean(1, keepdim=True)
        chroma = lr - luma
        return [part.diff(dim=-1).square().mean((1, 2, 3)).sqrt() for part in (chroma, luma)]

    repeated = detail(smooth=False)
    smoothed = detail(smooth=True)

    assert 0.6 < (smoothed[0] / repeated[0]).median() < 0.8
    assert 0.97 < (smoothed[1] / repeated[1]).median() < 1.03


# ----------------------------------------------------------------------------------------- BSRGAN


@pytest.mark.parametrize(
    ("halved", "width", "sigma", "sampled"), [(False, 8.0, 2.8, 2.4), (True, 6.0, 2.4, 1.2)]
)
def test_blurs_and_sampling_of_bsrgan(halved, width, sigma, sampled):
    """Zhang et al., section 3; x4."""
    params = drawn(BSRGAN)
    shuffled = params["shuffled"]

    part = params["halve"]["applied"] == halved

    for blur in (shuffled["blur"], shuffled["blur2"]):
        is_uniform(blur["variance_x"][part], 0.5, width)
        is_uniform(blur["variance_y"][part], 0.5, width)
        is_uniform(blur["sigma"][part], 0.1, sigma)
        is_uniform(blur["rotation"][part], 0.0, math.pi)
        is_chance(blur["isotropic"][part], 0.5)
        is_any_of(blur["kernel_size"][part], range(7, 22, 2))
    shrink = shuffled["shrink"]
    is_often(shrink["which"][part], {0: 0.75, 1: 0.25})
    is_uniform(shrink["sample"]["sigma"][part], 0.1, sampled)
    if halved:
        is_uniform(0.5 / shrink["resize"]["factor"][part], 1.0, 4.0)
    else:
        is_uniform(1.0 / shrink["resize"]["factor"][part], 1.0, 8.0)


def test_resize_noise_and_jpeg_of_bsrgan():
    params = drawn(BSRGAN)
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
    order = drawn(BSRGAN)["shuffled"]["order"]

    names = ["blur", "blur2", "shrink", "to_lr", "noise", "jpeg"]
    place = {name: np.argmax(order == number, axis=1) for number, name in enumerate(names)}
    assert (place["shrink"] < place["to_lr"]).all()
    for name in ("blur", "blur2", "noise", "jpeg"):
        is_any_of(place[name], range(6))
    # The smaller of two different places of six: 5, 4, ... 0 of 15 pairs.
    is_often(place["shrink"], {k: (5 - k) / 15 for k in range(5)})


@pytest.mark.parametrize("divisor", [2.0, 3.0, 4.0])
def test_sampling_a_gaussian_shifts_nothing(divisor):
    stage = SampleGaussian(divisor, sigma=(1.5, 1.5))
    side = int(12 * divisor)
    ramp = (torch.arange(side) / side).expand(1, 3, side, side)
    params = to_device(stage.draw(Draws(np.arange(1)), ramp.shape), 1, CPU)

    across = stage(ramp, params)[0, 0, 6]
    down = stage(ramp.mT, params)[0, 0, :, 6]

    centres = ((torch.arange(12) + 0.5) * divisor - 0.5) / side
    inside = slice(4, 8)  # away from the mirrored borders
    torch.testing.assert_close(across[inside], centres[inside], rtol=0, atol=1e-5)
    torch.testing.assert_close(down[inside], centres[inside], rtol=0, atol=1e-5)


def test_channel_noise_has_the_drawn_covariance():
    stage = ChannelNoise()
    x = torch.full((60, 3, 64, 64), 0.5)
    params = stage.draw(Draws(np.arange(60)), x.shape)

    y = stage(x, to_device(params, 60, CPU))

    noise = (y - x).flatten(2).double() * 255
    for n, family in enumerate(params["family"]):
        variance = params["level"][n] ** 2
        correlated = params["factor"][n] @ params["factor"][n].T
        expected = [np.eye(3) * variance, np.ones((3, 3)) * variance, correlated][family]
        tolerance = 0.1 * max(expected.max(), 1)
        np.testing.assert_allclose(torch.cov(noise[n]).numpy(), expected, atol=tolerance)
        if family == 2:
            assert np.all(np.linalg.eigvalsh(expected) <= 25**2 * 1.6)
            assert (expected >= -1e-9).all()  # the source takes absolute values


# ---------------------------------------------------------------------------------------- mixture


def test_each_recipe_of_a_mixture_draws_the_same_whichever_is_chosen():
    params = drawn(mixed)

    levels = params["light"]["noise"]["gaussian"]["levels"]
    is_often(params["which"], {0: 0.4, 1: 0.4, 2: 0.2})
    is_uniform(levels, 1.0, 20.0)
    is_uniform(levels[params["which"] == 0], 1.0, 20.0)


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

    assert len(set(params["which"])) == 3
    for n, which in enumerate(params["which"]):
        name = list(mixture.recipes)[which]
        alone = mixture.recipes[name].replay(hr[n : n + 1], of_image(params[name], n))
        assert torch.equal(alone[0], lr[n])


# ------------------------------------------------------------------ one by one, and on a canvas


def levels_off(images, canvas):
    """Differences of the images and those on the canvas, in levels."""
    off = []
    for n, image in enumerate(images):
        height, width = image.shape[-2:]
        assert canvas.sizes[n].tolist() == [height, width]
        off.append((canvas.pixels[n, :, :height, :width] - image[0]).abs().flatten() * 255)
    return torch.cat(off)


def each_stage(recipe):
    """Yield name, difference of the executors for equal inputs, and from the HR on, in levels."""
    hr = make_images(6, (96, 80))
    seeds = np.arange(6, 12)  # with which no value before a first JPEG lies at a half
    prepared = recipe._prepared(to_device(recipe.params_of(seeds, hr.shape), 6, CPU))
    parts = split_params(prepared, 6)
    images = list(hr.split(1))
    chain = Canvas.of(hr)
    with hashed_fields():
        for name, stage in recipe.named_stages():
            sizes = torch.tensor([image.shape[-2:] for image in images])
            alone = stage.on_canvas(Canvas(padded(images), sizes, (96, 80)), prepared[name])
            chain = stage.on_canvas(chain, prepared[name])
            images = [stage(x, part[name]) for x, part in zip(images, parts, strict=True)]
            yield name, levels_off(images, alone), levels_off(images, chain)


@pytest.mark.parametrize(
    ("recipe", "first_to_round"),
    [
        (RealESRGAN, "jpeg"),
        (RealESRGANLight, "final"),
        (ResShift, "jpeg"),
        (ImageNetTest, "jpeg"),
        (BSRGAN, "shuffled"),
    ],
)
def test_each_stage_is_the_same_by_both_executors(recipe, first_to_round):
    """Equal to 1e-4 before the first rounding; then, and in each stage alone, a level in 99.9 %.

    Poisson noise depends on rounded values: one of them may differ, by the processor. The composed
    stages `final` and `shuffled` round internally: a value near a half that is rounded differently
    changes a whole block of JPEG.
    """
    rounded = False
    for name, alone, chain in each_stage(recipe(4.0)):
        if name in ("final", "shuffled"):
            assert (alone > 1.02).float().mean() <= 0.03, name
        else:
            assert (alone > 1.02).float().mean() <= 1e-3, name
            if not rounded and name != first_to_round:
                assert (chain > 1e-4 * 255).float().mean() <= 1e-4, name
            elif not rounded:
                assert (chain > 1.02).float().mean() <= 1e-3, name
        rounded |= name == first_to_round
    assert rounded


def test_images_without_a_second_order_are_not_blurred_by_it_on_a_canvas():
    recipe = ResShift(4.0, second=Order(blur=1.0, kernel_size=(3, 13)))

    [alone] = [alone for name, alone, _ in each_stage(recipe) if name == "blur2"]

    assert alone.max() <= 1e-4 * 255


def test_a_budget_of_operators():
    """Where nothing is compiled. May only fall."""
    assert count_operators(RealESRGAN(4.0, usm=False), (16, 3, 256, 256)) <= 1345


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

    off = (compiled(hr, torch.arange(4)) - plain(hr, torch.arange(4))).abs() * 255

    assert (off > 1.02).float().mean() <= 0.12  # as of the two executors
