"""Large images by a whole method: the same in tiles as at once, in pixels or in latents."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

import lightning_modules as lm
from lightning_modules.methods.casarbi import ShiftSampling, Stages
from lightning_modules.sampling.color import fix_colors
from lightning_modules.sampling.solvers import residual_shift
from lightning_modules.sampling.tiling import Tiling
from tests.make import assert_near, fill, lr_batch


def in_tiles(model, images, **tiling):
    model.set_tiling(Tiling(**tiling))
    return model.eval().predict_step(images, 0)["sr"]


def at_once(model, batch):
    return model.eval().enlarge(batch)["sr"]


class Stochastic(lm.SuperResolver):
    """Two steps of residual shifting in pixels; looks one pixel of LR around each."""

    tile = 32
    tile_overlap = 12

    def __init__(self, scale=2.0):
        super().__init__(scale)
        self.net = nn.Conv2d(6, 3, 3, padding=1)
        fill(self)

    def training_step(self, batch, batch_idx):
        raise NotImplementedError

    def restore(self, batch, noise):
        y = functional.interpolate(batch["lr"], batch["size"])
        x = y + noise.normal(y.shape)
        for eta, previous in ((1.0, 0.4), (0.4, 0.0)):
            x_0 = self.net(torch.cat([x, y], 1))
            x = residual_shift(x, x_0, eta, previous, kappa=1.0, noise=noise.normal(y.shape))
        return 0.5 + 0.2 * x


@pytest.mark.parametrize("side", [1, Stochastic.tile])
def test_an_image_no_larger_than_a_tile_is_enlarged_at_once(side):
    batch = lr_batch(side, side)
    model = Stochastic()
    assert torch.equal(in_tiles(model, batch), at_once(model, batch))


# ------------------------------------------------------------------------------ of every method


class Near(nn.Module):
    """A denoiser that looks one pixel around each."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, *others):
        return self.conv(x)


SMALL_LIIF = partial(lm.LIIF, blocks=1, channels=8, hidden=(16,), global_skip=True)
SMALL_EDSR = partial(lm.AnySize, network=partial(lm.EDSR, blocks=1, channels=8))


def cascade(scale, **settings):
    """LIIF is its base."""
    model = lm.CasArbi(scale, SMALL_LIIF, network=Near(), **settings)
    model.sigma_r.fill_(0.1)  # else measured in training: the deviation of what the base lacks
    return model


METHODS = {
    "bicubic": lm.Bicubic,
    "LIIF": partial(lm.Regression, network=SMALL_LIIF),
    "EDSR": partial(lm.Regression, network=SMALL_EDSR),
    "cascade by 2": partial(cascade, sampling=ShiftSampling(timesteps=[14, 0], guidance=0.5)),
    "cascade by 1.5": partial(cascade, stages=Stages(fixed=1.5)),
    "ResShift": lambda scale: lm.ResShift(scale, Near(), lm.PixelSpace(), timesteps=[14, 4, 0]),
}


@pytest.mark.parametrize(
    ("scale", "stretch", "window"),
    [(1.5, 1.1, "linear"), (2.0, 1.0, "gaussian"), (2.3, 1.1, "linear")],
    ids=["x1.5, columns 10 % wider", "x2, Gaussian window", "x2.3, columns 10 % wider"],
)
@pytest.mark.parametrize("method", METHODS)
def test_an_image_in_tiles_equals_the_image_at_once(method, scale, stretch, window):
    """At fractional factors too, where a tile may begin within a pixel of the output."""
    height, width = 93, 71  # no multiples of a tile
    model = fill(METHODS[method](scale))
    batch = lr_batch(height, width, scale)
    if method != "ResShift":  # whose factor is that of both sides
        batch["size"] = (round(height * scale), round(width * scale * stretch))

    # A quarter of the overlap is discarded on each side: 11 px, more than any of these sees.
    sr = in_tiles(model, batch, size=64, overlap=44, window=window, batch=2)

    assert model.tile_count > 1
    assert_near(sr, at_once(model, batch), 1e-5)


@pytest.mark.parametrize("side", [100, 101])
@pytest.mark.parametrize("method", [lm.Regression, partial(lm.CasArbi, network=None)])
def test_tiles_begin_at_whole_squares_of_a_network_that_folds_pixels(method, side, monkeypatch):
    """RRDBNet of x2 folds squares of 2 x 2 pixels; the last tile of an odd side would cut one."""
    # Thin layers, so that pixels beyond the overlap change less than 1e-3.
    monkeypatch.setattr("lightning_modules.networks.rrdb.GROWTH", 4)
    network = partial(lm.RRDBNet, channels=8, blocks=1)
    model = fill(method(2, partial(lm.AnySize, network=network)))
    batch = lr_batch(side, side)

    sr = in_tiles(model, batch, size=64, overlap=32)

    assert_near(sr, at_once(model, batch), 1e-3)


@pytest.mark.parametrize("scale", [2.0, 3.7])
def test_by_default_tiles_of_a_network_overlap_by_its_receptive_field(scale):
    """So that they change nothing."""
    model = fill(lm.Regression(scale, network=SMALL_EDSR))
    batch = lr_batch(90, 100, scale)

    sr = in_tiles(model, batch, size=56)

    assert max(model.tile_size) <= 56
    assert_near(sr, at_once(model, batch), 1e-5)


# ----------------------------------------------------------------------------- memory, precision


# A tile may take half of it. Half of 50 MB is 220 x 220 px, by the measured 512 bytes a pixel; with
# an overlap of 16 px four such tiles span 700.
@pytest.mark.parametrize(("free_bytes", "tiles"), [(10**12, 1), (50 * 10**6, 4 * 4)])
def test_free_memory_decides_how_large_tiles_are(free_bytes, tiles, monkeypatch):
    monkeypatch.setattr("lightning_modules.methods.regression.free_memory", lambda _: free_bytes)
    model = fill(lm.Regression(1, network=SMALL_EDSR))
    batch = lr_batch(700, 700, scale=1)

    sr = in_tiles(model, batch)

    assert model.tile_count == tiles
    assert_near(sr, at_once(model, batch), 1e-5)


class OffInBfloat16(nn.Module):
    """Its output in bfloat16 is off by ``error``."""

    def __init__(self, scale, error=0.0):
        super().__init__()
        self.error = error

    def forward(self, lr):
        return lr + self.error * torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("error", "bits", "allowed", "tiled", "expected"),
    [
        pytest.param(0.0, 8, True, True, True, id="used"),
        pytest.param(0.01, 8, True, True, False, id="error above half of 1/255"),
        pytest.param(0.0, 16, True, True, False, id="16 bits a channel"),
        pytest.param(0.0, 8, False, True, False, id="not allowed by the command"),
        pytest.param(0.0, 8, True, False, False, id="evaluation"),
    ],
)
def test_prediction_of_8_bits_is_in_bfloat16_where_allowed_and_accurate(
    error, bits, allowed, tiled, expected, monkeypatch
):
    monkeypatch.setattr("lightning_modules.methods.regression.computes_in_bf16", lambda: True)
    model = lm.Regression(1, network=partial(OffInBfloat16, error=error)).eval()
    model.may_use_bf16 = allowed
    batch = lr_batch(20, 22, scale=1) | {"meta": [{"bit_depth": bits}]}

    model.enlarge(batch, tiled=tiled)  # as predict does; evaluation does not

    assert model.uses_bf16 == expected


class OnAFullCard(Stochastic):
    """Has memory for tiles of ``fits`` LR pixels a side."""

    tile = 96
    fits = 24

    def restore(self, batch, noise):
        if max(batch["lr"].shape[-2:]) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().restore(batch, noise)


# First in tiles of 96, or at once. At last tiles of 24 with an overlap of 12, of which there are
# ceil((side - 12) / (24 - 12)) a side.
@pytest.mark.parametrize(("side", "tiles"), [(100, 8 * 8), (90, 7 * 7)])
def test_tiles_are_halved_until_they_fit_into_the_memory(side, tiles, caplog):
    batch = lr_batch(side, side)
    model = OnAFullCard()

    sr = in_tiles(model, batch)

    assert_near(sr, at_once(Stochastic(), batch), 1e-5)
    assert model.tile_count == tiles
    assert [record.args for record in caplog.records] == [(96, 48), (48, 24)]  # from, to


# -------------------------------------------------------------------------- what a method may set


class Tinted(Stochastic):
    """Nearest neighbour with a tint."""

    def restore(self, batch, noise):
        return functional.interpolate(batch["lr"], batch["size"]) * 0.8 + 0.1


def test_colours_are_fixed_once_after_the_tiles():
    batch = lr_batch(60, 62)
    plain = in_tiles(Tinted(), batch)
    model = Tinted()
    model.color_fix = "wavelet"

    sr = in_tiles(model, batch)

    assert torch.equal(sr, fix_colors(plain, batch["lr"], "wavelet"))
    assert (sr - plain).abs().max() > 0.02  # it does change something


def test_a_method_with_tile_always_is_cut_in_evaluation_too():
    """The size of tiles then changes metrics, so it is among the settings that label them."""
    model = Stochastic().eval()
    model.set_tiling(Tiling(size=64))
    assert model.output_settings == {}

    model.tile_always = True
    model.test_step(lr_batch(100, 100), 0)

    assert model.tile_count > 1
    assert model.output_settings == {"tiling.size": 64}


class OfAtLeast50(OnAFullCard):
    tile_least = 50
    fits = 50


def test_halved_tiles_are_not_smaller_than_the_methods_least():
    model = OfAtLeast50()
    in_tiles(model, lr_batch(140, 140))  # first in tiles of 96, of which 48 is half
    assert model.tile_count == 4 * 4  # ceil((140 - 12) / (50 - 12)) a side, with an overlap of 12


def test_a_size_of_tiles_below_the_methods_least_is_refused():
    in_tiles(OfAtLeast50(), lr_batch(140, 140), size=50)
    with pytest.raises(ValueError, match=r"tiling\.size is 49, and OfAtLeast50 pads .* to 50"):
        in_tiles(OfAtLeast50(), lr_batch(140, 140), size=49)


@pytest.mark.parametrize(("scale", "largest"), [(1, 640), (2, 640), (4, 1280 // 4), (12, 4 * 32)])
def test_default_tiles_are_as_few_and_small_as_cover_a_side_of_700(scale, largest):
    """Of LR: neighbours overlap by 32 px. A tile has at most 640 px, and an output of at most 1280.

    But it has at least four overlaps: at x12 128 px instead of 1280 / 12.
    """
    count = math.ceil((700 - 32) / (largest - 32))
    side = math.ceil((700 + (count - 1) * 32) / count)
    sides = set()

    class Watched(lm.Bicubic):
        def restore(self, batch, noise):
            sides.add(batch["lr"].shape[-1])
            return super().restore(batch, noise)

    in_tiles(Watched(scale), lr_batch(4, 700, scale))

    assert sides == {side}
