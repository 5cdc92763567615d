"""Recipes: draws compared with the papers' tables, and both executors with each other."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.data import coffee

from degradations.base import Canvas, Degradation
from degradations.bicubic import Bicubic
from degradations.compose import Mixture
from degradations.draws import Draws, split_params, to_device
from degradations.pipeline import Pipeline
from degradations.recipes.bsrgan import BSRGAN, ChannelNoise, SampleGaussian
from degradations.recipes.resshift import ImageNetTest, ResShift
from degradations.recipes.second_order import Order, RealESRGAN, RealESRGANLight, SecondOrder
from degradations.stages.noise import hashed_fields
from degradations.stages.resize import MODES
from degradations.tools.configure import degradation_of
from tests.contracts.degradation_contract import padded
from tests.launches import count_launches, count_operators

N = 10_000
P = 1e-4  # of each of some 250 tests, at fixed seeds
CPU = torch.device("cpu")
SIDE = 512
ALL = (RealESRGAN, RealESRGANLight, ResShift, ImageNetTest, BSRGAN)


def mixed(scale: float, **arguments: Any) -> Mixture:
    recipes = {
        "light": functools.partial(RealESRGANLight, **arguments),
        "bsrgan": functools.partial(BSRGAN, **arguments),
        "bicubic": Bicubic,
    }
    return Mixture(scale, recipes, [0.4, 0.4, 0.2])


def name_of(cls: Any) -> str:
    return getattr(cls, "__name__", None) or cls.func.__name__


def make_images(batch: int, size: tuple[int, int]) -> torch.Tensor:
    """Smooth, rough and clipped parts."""
    generator = torch.Generator().manual_seed(batch)
    y, x = torch.linspace(0, 9, size[0]).view(-1, 1), torch.linspace(0, 7, size[1])
    phase = torch.rand(batch, 3, 1, 1, generator=generator) * 6
    rough = torch.rand(batch, 3, *size, generator=generator) - 0.5
    return (0.5 + 0.6 * torch.sin(x + y + phase) + 0.3 * rough).clamp(0, 1)


@functools.cache
def drawn(recipe: Callable[[float], Degradation], scale: float = 4.0) -> dict[str, Any]:
    return recipe(scale).params_of(np.arange(N), torch.Size((N, 3, SIDE, SIDE)))


def at(params: dict[str, Any], path: str) -> Any:
    for name in path.split("."):
        params = params[name]
    return params


# ------------------------------------------------------------------- expectations, and their tests


def is_uniform(values: Any, low: float, high: float) -> None:
    assert len(values) > 100
    assert stats.kstest(values, "uniform", (low, high - low)).pvalue > P


def is_often(values: Any, p: dict[Any, float]) -> None:
    """Discrete values and their probabilities."""
    assert set(np.unique(values).tolist()) <= {key for key, share in p.items() if share > 0}
    share = np.array([value for value in p.values() if value > 0])
    counts = [np.sum(values == key) for key, value in p.items() if value > 0]
    if len(counts) > 1:
        assert stats.chisquare(counts, share / share.sum() * len(values)).pvalue > P


def is_any_of(values: Any, options: Any) -> None:
    is_often(values, {option: 1.0 for option in options})


def is_chance(values: Any, p: float) -> None:
    assert values.dtype == np.bool_
    is_often(values, {True: p, False: 1.0 - p})


class Table(NamedTuple):
    """One order as in the papers' tables: largest and smallest kernel, and so on."""

    sizes: range
    sinc: float
    sigma: tuple[float, float]
    mix: tuple[float, ...]
    beta_g: tuple[float, float]
    beta_p: tuple[float, float]
    updown: tuple[float, float, float]
    factors: tuple[float, float]
    gauss: float
    level: tuple[float, float]
    poisson: tuple[float, float]
    grey: float


MIX = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
FIRST = Table(
    *(range(7, 22, 2), 0.1, (0.2, 3.0), MIX, (0.5, 4.0), (1.0, 2.0)),
    *((0.2, 0.7, 0.1), (0.15, 1.5), 0.5, (1.0, 30.0), (0.05, 3.0), 0.4),
)
SECOND = Table(
    *(range(7, 22, 2), 0.1, (0.2, 1.5), MIX, (0.5, 4.0), (1.0, 2.0)),
    *((0.3, 0.4, 0.3), (0.3, 1.2), 0.5, (1.0, 25.0), (0.05, 2.5), 0.4),
)
LIGHT = FIRST._replace(
    factors=(0.5, 1.5), gauss=0.3, level=(1.0, 20.0), poisson=(0.05, 2.0), grey=0.2
)
IMAGENET = Table(
    *(range(3, 12, 2), 0.1, (0.2, 0.8), (0.6, 0.4, 0, 0, 0, 0), (1.0, 1.5), (1.0, 1.2)),
    *((0.2, 0.7, 0.1), (0.5, 1.5), 0.5, (1.0, 15.0), (0.05, 0.3), 0.4),
)


class Expected(NamedTuple):
    """A second-order recipe: orders, probability of the second and its blur, qualities, sinc."""

    first: Table
    second: Table | None
    second_p: float
    blur2_p: float
    jpeg: tuple[int, int] | None
    last_jpeg: tuple[int, int]
    last_sinc: float
    last_sizes: range
    usm: bool


SECOND_ORDERS = {
    RealESRGAN: Expected(
        *(FIRST, SECOND, 1.0, 0.8, (30, 95), (30, 95), 0.8, range(7, 22, 2), True)
    ),
    RealESRGANLight: Expected(*(LIGHT, None, 0.0, 0.0, None, (60, 95), 0.8, range(7, 22, 2), True)),
    ResShift: Expected(
        FIRST._replace(sizes=range(3, 20, 2)),
        SECOND._replace(sizes=range(3, 14, 2)),
        *(0.5, 0.8, (30, 95), (30, 95), 0.8, range(3, 14, 2), False),
    ),
    ImageNetTest: Expected(
        *(IMAGENET, None, 0.0, 0.0, (70, 95), (80, 100), 0.2, range(3, 6, 2), False)
    ),
}


@pytest.mark.parametrize("recipe", SECOND_ORDERS, ids=name_of)
@pytest.mark.parametrize("order", ["first", "second"])
def test_blur(recipe: type[SecondOrder], order: str) -> None:
    expected, params = SECOND_ORDERS[recipe], drawn(recipe)
    table = getattr(expected, order)
    if table is None:
        assert "blur2" not in params
        return
    blur = params["blur" if order == "first" else "blur2"]
    if order == "first":
        assert blur["applied"].all()
    else:
        is_chance(blur["applied"], expected.second_p * expected.blur2_p)
    kernel = blur["stage"]
    size, family = kernel["kernel_size"], kernel["family"]
    is_any_of(size, table.sizes)
    is_chance(kernel["sinc"], table.sinc)
    is_often(family, dict(enumerate(table.mix)))
    is_uniform(kernel["sigma_x"], *table.sigma)
    elongated = family % 2 == 1
    is_uniform(kernel["sigma_y"][elongated], *table.sigma)
    is_uniform(kernel["rotation"][elongated], -math.pi, math.pi)
    np.testing.assert_array_equal(kernel["sigma_y"][~elongated], kernel["sigma_x"][~elongated])
    for kind, (low, high) in ((1, table.beta_g), (2, table.beta_p)):
        beta = kernel["beta"][family // 2 == kind]
        if not len(beta):
            continue
        is_chance(beta > 1.0, 0.5)
        is_uniform(beta[beta > 1.0], 1.0, high)
        if low < 1.0:
            is_uniform(beta[beta <= 1.0], low, 1.0)
    if (size < 13).any():
        is_uniform(kernel["cutoff"][size < 13], math.pi / 3, math.pi)
    if (size >= 13).any():
        is_uniform(kernel["cutoff"][size >= 13], math.pi / 5, math.pi)


def check_resize(
    resize: dict[str, Any], p: tuple[float, float, float], ends: Any, of: float
) -> None:
    factor = resize["factor"]
    kind = np.select([factor > 1.0, factor < 1.0], [0, 1], 2)
    is_often(kind, dict(enumerate(p)))
    is_uniform(factor[kind == 0], 1.0, ends[1])
    is_uniform(factor[kind == 1], ends[0], 1.0)
    is_any_of(resize["mode"], [MODES.index(mode) for mode in ("area", "bilinear", "bicubic")])
    assert not resize["antialias"].any()
    np.testing.assert_array_equal(resize["size"], np.floor(of * factor)[:, None].repeat(2, 1))


@pytest.mark.parametrize("recipe", SECOND_ORDERS, ids=name_of)
@pytest.mark.parametrize("order", ["first", "second"])
def test_resize_and_noise(recipe: type[SecondOrder], order: str) -> None:
    expected, params = SECOND_ORDERS[recipe], drawn(recipe)
    table = getattr(expected, order)
    if table is None:
        assert not {"resize2", "noise2"} & params.keys()
        return
    if order == "first":
        resize, noise = params["resize"], params["noise"]
    else:
        for name in ("resize2", "noise2"):
            is_chance(params[name]["applied"], expected.second_p)
        np.testing.assert_array_equal(params["resize2"]["applied"], params["noise2"]["applied"])
        assert not (params["blur2"]["applied"] & ~params["resize2"]["applied"]).any()
        resize, noise = params["resize2"]["stage"], params["noise2"]["stage"]
    check_resize(resize, table.updown, table.factors, SIDE if order == "first" else SIDE / 4)
    is_often(noise["which"], {0: table.gauss, 1: 1.0 - table.gauss})
    is_uniform(noise["gaussian"]["levels"], *table.level)
    is_uniform(noise["poisson"]["strength"], *table.poisson)
    for family in ("gaussian", "poisson"):
        is_chance(noise[family]["grey"], table.grey)


@pytest.mark.parametrize("recipe", SECOND_ORDERS, ids=name_of)
def test_jpeg_and_the_last_steps(recipe: type[SecondOrder]) -> None:
    expected, params = SECOND_ORDERS[recipe], drawn(recipe)
    if expected.jpeg is None:
        assert "jpeg" not in params
    else:
        is_any_of(params["jpeg"]["quality"], range(expected.jpeg[0], expected.jpeg[1] + 1))
    final = params["final"]
    low, high = expected.last_jpeg
    is_any_of(final["jpeg"]["quality"], range(low, high + 1))
    assert set(final["jpeg"]["subsampling"]) == {2}  # 4:2:0
    is_chance(final["jpeg_last"], 0.5)
    is_chance(final["sinc"]["applied"], expected.last_sinc)
    is_any_of(final["sinc"]["stage"]["kernel_size"], expected.last_sizes)
    is_uniform(final["sinc"]["stage"]["cutoff"], math.pi / 3, math.pi)
    is_any_of(final["resize"]["mode"], range(3))
    assert set(final["resize"]["size"].flat) == {SIDE // 4}
    assert ("usm" in params) == expected.usm


def test_bsrgan() -> None:
    """Zhang et al., section 3; x4."""
    params = drawn(BSRGAN)
    halved, shuffled = params["halve"]["applied"], params["shuffled"]
    is_chance(halved, 0.25)
    for part, width, sigma, sampled in ((~halved, 8.0, 2.8, 2.4), (halved, 6.0, 2.4, 1.2)):
        for name in ("blur", "blur2"):
            blur = shuffled[name]
            is_uniform(blur["variance_x"][part], 0.5, width)
            is_uniform(blur["variance_y"][part], 0.5, width)
            is_uniform(blur["sigma"][part], 0.1, sigma)
            is_uniform(blur["rotation"][part], 0.0, math.pi)
            is_chance(blur["isotropic"][part], 0.5)
            is_any_of(blur["kernel_size"][part], range(7, 22, 2))
        shrink = shuffled["shrink"]
        is_often(shrink["which"][part], {0: 0.75, 1: 0.25})
        is_uniform(shrink["sample"]["sigma"][part], 0.1, sampled)
    resize = shrink["resize"]
    is_uniform(1.0 / resize["factor"][~halved], 1.0, 8.0)
    is_uniform(0.5 / resize["factor"][halved], 1.0, 4.0)
    np.testing.assert_array_equal(resize["size"][:, 0], np.floor(SIDE * resize["factor"]))
    is_any_of(resize["mode"], range(3))
    noise = shuffled["noise"]
    is_any_of(noise["level"], range(1, 26))
    is_often(noise["family"], {0: 0.4, 1: 0.4, 2: 0.2})
    is_chance(shuffled["jpeg"]["applied"], 0.9)
    is_any_of(shuffled["jpeg"]["stage"]["quality"], range(30, 96))
    is_any_of(params["final_jpeg"]["quality"], range(30, 96))
    assert set(shuffled["to_lr"]["size"].flat) == {SIDE // 4}


def test_bsrgan_shuffles_but_shrinks_before_the_lr() -> None:
    order = drawn(BSRGAN)["shuffled"]["order"]
    names = ["blur", "blur2", "shrink", "to_lr", "noise", "jpeg"]
    place = {name: np.argmax(order == number, axis=1) for number, name in enumerate(names)}
    assert (place["shrink"] < place["to_lr"]).all()
    for name in ("blur", "blur2", "noise", "jpeg"):
        is_any_of(place[name], range(6))
    # The smaller of two different places of six: 5, 4, ... 0 of 15 pairs.
    is_often(place["shrink"], {k: (5 - k) / 15 for k in range(5)})


def test_mixture() -> None:
    params = drawn(mixed)
    is_often(params["which"], {0: 0.4, 1: 0.4, 2: 0.2})
    is_uniform(params["light"]["noise"]["gaussian"]["levels"], 1.0, 20.0)
    # Each recipe draws the same whichever is chosen.
    own = params["light"]["noise"]["gaussian"]["levels"]
    is_uniform(own[params["which"] == 0], 1.0, 20.0)


# ----------------------------------------------------------------------------------- independence


def numbers(params: dict[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, dict):
            found |= numbers(value, f"{path}{name}.")
        elif value.ndim == 1 and not name.endswith("seeds"):
            found[path + name] = value
    return found


def dependent(recipe: Degradation, batches: int = 150) -> set[str]:
    """Return parameters in which the first two images of a batch are dependent."""
    seeds = np.arange(batches * 3).reshape(batches, 3)
    shape = torch.Size((3, 3, 96, 96))
    drawn = [numbers(recipe.params_of(row, shape)) for row in seeds]
    found = set()
    for path in drawn[0]:
        pairs = np.array([params[path][:2] for params in drawn], float)
        if np.ptp(pairs) > 0 and abs(stats.spearmanr(*pairs.T).statistic) > 4.5 / batches**0.5:
            found.add(path)
    return found


# By the released code of Real-ESRGAN and ResShift.
ONCE_A_BATCH = {
    *(f"resize.{name}" for name in ("factor", "mode")),
    *(f"resize2.stage.{name}" for name in ("factor", "mode")),
    *("noise.which", "noise2.stage.which", "blur2.applied", "final.jpeg_last"),
    "final.resize.mode",
}


@pytest.mark.parametrize("recipe", [RealESRGAN, RealESRGANLight, ResShift], ids=name_of)
def test_faithful_draws_once_a_batch_what_upstream_does(recipe: Callable[..., Any]) -> None:
    once = {path for path in ONCE_A_BATCH if path.split(".")[0] in recipe(4.0).stages}
    if recipe is ResShift:
        once |= {"resize2.applied", "noise2.applied"}
    faithful = recipe(4.0, faithful=True)
    assert dependent(faithful) == once
    params = faithful.params_of(np.arange(24), torch.Size((24, 3, SIDE, SIDE)))
    for path, values in numbers(params).items():
        varies = len(set(at(drawn(recipe), path).tolist())) > 1
        assert (len(set(values.tolist())) > 1) == (varies and path not in once), path


def test_faithful_repeats_the_chroma_of_a_jpeg() -> None:
    """By distribution: smoothed, LR has some 0.7 of the finest detail in chroma, and equal luma."""
    x, detail = torch.from_numpy(coffee()[:256, :256] / 255).float().movedim(-1, 0)[None], []
    for smooth in (False, True):
        recipe = RealESRGAN(4.0, usm=False, faithful=True)
        stages: Any = recipe.stages
        assert not stages["jpeg"].smooth_chroma
        assert stages["jpeg"].transposed_tables
        assert stages["final"].jpeg.transposed_tables
        stages["jpeg"].smooth_chroma = stages["final"].jpeg.smooth_chroma = smooth
        lr = torch.cat([recipe(x, torch.tensor([seed])) for seed in range(30)])
        luma = lr.mean(1, keepdim=True)
        steps = [part.diff(dim=-1).square().mean((1, 2, 3)).sqrt() for part in (lr - luma, luma)]
        detail.append(torch.stack(steps))
    chroma, luma = (detail[1] / detail[0]).median(1).values
    assert 0.6 < chroma < 0.8
    assert 0.97 < luma < 1.03


# ------------------------------------------------------------------------------------ what is done


def test_the_last_steps_in_both_orders() -> None:
    recipe = RealESRGAN(2.0, quantize=False)
    x = make_images(1, (32, 32))
    params = to_device(recipe.params_of(np.array([3]), x.shape), 1, CPU)["final"]
    final: Any = recipe.stages["final"]
    for last in (True, False):
        own = {**params, "jpeg_last": torch.tensor([last])}
        y = x
        for step in ("resize", "sinc", "jpeg") if last else ("jpeg", "resize", "sinc"):
            y = getattr(final, step)(y, own[step])
        assert torch.equal(final(x, own), y)


def canvas_of(images: list[torch.Tensor], hr_size: tuple[int, int]) -> Canvas:
    sizes = torch.tensor([image.shape[-2:] for image in images])
    return Canvas(padded(images), sizes, hr_size)


def each_stage(
    recipe: Pipeline, hr: torch.Tensor, seeds: Any
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Yield name, difference of the executors for equal inputs, and from the HR on, in levels."""
    batch, size = len(hr), (hr.shape[-2], hr.shape[-1])
    prepared = recipe._prepared(to_device(recipe.params_of(seeds, hr.shape), batch, CPU))
    own = split_params(prepared, batch)
    images, chain = list(hr.split(1)), Canvas.of(hr)
    with hashed_fields():
        for name, stage in recipe.named_stages():
            alone = stage.on_canvas(canvas_of(images, size), prepared[name])
            chain = stage.on_canvas(chain, prepared[name])
            images = [stage(x, part[name]) for x, part in zip(images, own, strict=True)]
            yield name, levels_off(images, alone), levels_off(images, chain)


def levels_off(images: list[torch.Tensor], canvas: Canvas) -> torch.Tensor:
    off = []
    for image, pixels, size in zip(images, canvas.pixels, canvas.sizes.tolist(), strict=True):
        assert list(image.shape[-2:]) == size
        off.append((pixels[:, : size[0], : size[1]] - image[0]).abs().flatten() * 255)
    return torch.cat(off)


SIX_SEEDS = np.arange(6, 12)  # with which no value before a first JPEG lies at a half
# The first stage that rounds.
ROUNDS = {"BSRGAN": "shuffled", "RealESRGANLight": "final"}


@pytest.mark.parametrize("recipe", ALL, ids=name_of)
def test_each_stage_is_the_same_by_both_executors(recipe: Callable[..., Pipeline]) -> None:
    """Equal to 1e-4 before the first rounding; then, and in each stage alone, a level in 99.9 %.

    Poisson noise depends on rounded values: one of them may differ, by the processor. The composed
    stages `final` and `shuffled` round internally: a value near a half that is rounded differently
    changes a whole block of JPEG.
    """
    rounded = False
    for name, alone, chain in each_stage(recipe(4.0), make_images(6, (96, 80)), SIX_SEEDS):
        composed = name in ("final", "shuffled")
        assert (alone > 1.02).float().mean() <= (0.03 if composed else 1e-3), name
        first = name == ROUNDS.get(recipe.__name__, "jpeg")
        if not rounded and not composed:
            least = 1.02 if first else 1e-4 * 255
            assert (chain > least).float().mean() <= (1e-3 if first else 1e-4), name
        rounded |= first
    assert rounded


def test_images_without_a_second_order_are_not_blurred_by_it_on_a_canvas() -> None:
    recipe = ResShift(4.0, second=Order(blur=1.0, kernel_size=(3, 13)))
    for name, alone, _ in each_stage(recipe, make_images(6, (96, 80)), SIX_SEEDS):
        assert name != "blur2" or alone.max() <= 1e-4 * 255


def test_a_budget_of_operators() -> None:
    """Where nothing is compiled. May only fall."""
    assert count_operators(RealESRGAN(4.0, usm=False), (16, 3, 256, 256)) <= 1345


@pytest.mark.slow  # the compiler's plan takes a minute
def test_a_budget_of_launches_and_bytes() -> None:
    """Of 16 images of 256 px; the bytes are 0.3 ms of an H200, tables included. May only fall."""
    recipe, hr = RealESRGAN(4.0, usm=False), torch.zeros(16, 3, 256, 256)
    launches = count_launches(recipe, hr, torch.arange(16))
    assert launches.kernels <= 48, launches
    assert launches.library <= 24, launches
    assert launches.bytes <= 1.39e9, launches


@pytest.mark.slow  # the compiler takes minutes
def test_the_compiled_canvas() -> None:
    hr, seeds = make_images(4, (64, 64)), torch.arange(4)
    compiled, plain = (RealESRGAN(4.0, executor="canvas", compile=c) for c in (True, False))
    off = (compiled(hr, seeds) - plain(hr, seeds)).abs() * 255
    assert (off > 1.02).float().mean() <= 0.12  # as of the two executors


# --------------------------------------------------------------------------------- BSRGAN's stages


@pytest.mark.parametrize("divisor", [2.0, 3.0, 4.0])
def test_sampling_a_gaussian_shifts_nothing(divisor: float) -> None:
    stage = SampleGaussian(divisor, sigma=(1.5, 1.5))
    side = int(12 * divisor)
    ramp = (torch.arange(side) / side).expand(1, 3, side, side)
    params = to_device(stage.draw(Draws(np.arange(1)), ramp.shape), 1, CPU)
    y = stage(ramp, params)
    centres = ((torch.arange(12) + 0.5) * divisor - 0.5) / side
    inside = slice(4, 8)  # away from the mirrored borders
    torch.testing.assert_close(y[0, 0, 6, inside], centres[inside], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        stage(ramp.transpose(2, 3), params)[0, 0, inside, 6], centres[inside], rtol=0, atol=1e-5
    )


def test_channel_noise() -> None:
    stage = ChannelNoise()
    x = torch.full((60, 3, 64, 64), 0.5)
    drawn = stage.draw(Draws(np.arange(60)), x.shape)
    noise = (stage(x, to_device(drawn, 60, CPU)) - 0.5).flatten(2).double() * 255
    for n in range(60):
        covariance = torch.cov(noise[n]).numpy()
        level, family = drawn["level"][n], drawn["family"][n]
        if family == 0:
            expected = np.eye(3) * level**2
        elif family == 1:
            expected = np.ones((3, 3)) * level**2
        else:
            expected = drawn["factor"][n] @ drawn["factor"][n].T
            assert np.all(np.linalg.eigvalsh(expected) <= 25**2 * 1.6)
        np.testing.assert_allclose(covariance, expected, atol=0.1 * max(expected.max(), 1))
    correlated = drawn["factor"][drawn["family"] == 2]
    products = correlated @ correlated.transpose(0, 2, 1)
    assert (products >= -1e-9).all()  # the source takes absolute values


# ----------------------------------------------------------------------------------------- mixture


def test_each_image_gets_what_its_recipe_gives() -> None:
    mixture, hr, seeds = mixed(2.0), make_images(12, (24, 20)), torch.arange(12)
    params = mixture.params_of(seeds, hr.shape)
    lr = mixture(hr, seeds)
    assert len(set(params["which"])) == 3
    for n, which in enumerate(params["which"]):
        name = list(mixture.recipes)[which]
        own = of_image(params[name], n)
        recipe: Any = mixture.recipes[name]
        assert torch.equal(recipe.replay(hr[n : n + 1], own)[0], lr[n])


def of_image(params: dict[str, Any], n: int) -> dict[str, Any]:
    return {
        name: of_image(value, n) if isinstance(value, dict) else value[n : n + 1]
        for name, value in params.items()
    }


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "make",
    [
        lambda: RealESRGAN(4.0, first=Order(sigma=(3.0, 0.2))),
        lambda: RealESRGAN(4.0, second=Order(resize=(0.2, 0.8))),
        lambda: RealESRGAN(4.0, first=Order(kernel_size=(6, 21))),
        lambda: RealESRGAN(4.0, jpeg_quality=(0, 95)),
        lambda: Mixture(2.0, [Bicubic], [0.5, 0.5]),
    ],
)
def test_ranges_and_probabilities_that_cannot_be(make: Callable[[], Degradation]) -> None:
    with pytest.raises(ValueError, match=" is "):
        make()


# -------------------------------------------------------------------------------------------- YAML


def test_one_range_in_yaml_leaves_the_others_of_the_recipe(tmp_path: Path) -> None:
    path, first = tmp_path / "a.yaml", "init_args: {first: {sigma: [0.5, 0.6]}}"
    path.write_text(f"class_path: degradations.ImageNetTest\n{first}\n")
    recipe = degradation_of([path], 4.0)
    params = recipe.params_of(np.arange(N), torch.Size((N, 3, SIDE, SIDE)))
    is_uniform(params["blur"]["stage"]["sigma_x"], 0.5, 0.6)
    is_any_of(params["blur"]["stage"]["kernel_size"], range(3, 12, 2))
    is_uniform(params["noise"]["poisson"]["strength"], 0.05, 0.3)
