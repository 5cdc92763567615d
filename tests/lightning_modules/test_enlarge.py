"""Large images by a whole method: the same in tiles as at once, in pixels or in latents."""

from __future__ import annotations

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
            x = residual_shift(x, x_0, eta, previous, 1.0, noise.normal(y.shape))
        return 0.5 + 0.2 * x


@pytest.mark.parametrize("side", [1, 15])
def test_an_image_smaller_than_a_tile_is_enlarged_at_once(side):
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
    """By its base, LIIF, and a denoiser."""
    return lm.CasArbi(scale, SMALL_LIIF, network=Near(), **settings)


METHODS = {
    "bicubic": lm.Bicubic,
    "LIIF": partial(lm.Regression, network=SMALL_LIIF),
    "EDSR": partial(lm.Regression, network=SMALL_EDSR),
    "cascade by 2": partial(cascade, sampling=ShiftSampling(timesteps=[14, 0], guidance=0.5)),
    "cascade by 1.5": partial(cascade, stages=Stages(1.5)),
    "ResShift": lambda scale: lm.ResShift(scale, Near(), lm.PixelSpace(), timesteps=[14, 4, 0]),
}


@pytest.mark.parametrize(
    ("scale", "stretch", "window"),
    [(1.5, 1.1, "linear"), (3.0, 1.0, "gaussian"), (3.7, 1.1, "linear")],
)
@pytest.mark.parametrize("method", METHODS)
def test_a_tile_is_a_part_of_the_whole(method, scale, stretch, window):
    """Where no cut between LR pixels is one between output pixels, and sides differ in factor."""
    model = fill(METHODS[method](scale))
    if isinstance(model, lm.CasArbi):
        model.sigma_r.fill_(0.1)
    batch = lr_batch(93, 71, scale)
    if method != "ResShift":  # which has one factor
        batch["size"] = (round(93 * scale), round(71 * scale * stretch))

    sr = in_tiles(model, batch, size=64, window=window, overlap=44, batch=2)

    assert model.tile_count > 1
    assert_near(sr, at_once(model, batch), 1e-5)


@pytest.mark.parametrize("side", [100, 101])
@pytest.mark.parametrize("method", [lm.Regression, partial(lm.CasArbi, network=None)])
def test_pixels_that_a_network_folds_keep_their_phase(method, side, monkeypatch):
    """Also where the tile at the end of an odd side would start within a square."""
    # So that far pixels count little.
    monkeypatch.setattr("lightning_modules.networks.rrdb.GROWTH", 4)
    network = partial(lm.RRDBNet, channels=8, blocks=1)
    model = fill(method(2, partial(lm.AnySize, network=network)))
    batch = lr_batch(side, side)

    sr = in_tiles(model, batch, size=64, overlap=32)

    assert_near(sr, at_once(model, batch), 1e-3)


@pytest.mark.parametrize("scale", [2.0, 3.7])
def test_tiles_of_one_pass_overlap_by_what_it_sees(scale):
    """By default, so that they change nothing; of any network that does not see everything."""
    model = fill(lm.Regression(scale, network=SMALL_EDSR))
    batch = lr_batch(90, 100, scale)

    sr = in_tiles(model, batch, size=56)

    assert max(model.tile_size) <= 56
    assert_near(sr, at_once(model, batch), 1e-5)


# ----------------------------------------------------------------------------- memory, precision


@pytest.mark.parametrize(("memory", "tiles"), [(1 << 40, 1), (50_000_000, 4 * 4)])  # bytes
def test_memory_decides_how_large_tiles_are(memory, tiles, monkeypatch):
    monkeypatch.setattr("lightning_modules.methods.regression.free_memory", lambda _: memory)
    model = fill(lm.Regression(1, network=SMALL_EDSR))
    batch = lr_batch(700, 700, 1)

    sr = in_tiles(model, batch)

    assert model.tile_count == tiles
    assert_near(sr, at_once(model, batch), 1e-5)


class Rounding(nn.Module):
    """In bfloat16 it is off by ``error``; half a level, 0.002, is allowed."""

    def __init__(self, scale, error=0.0):
        super().__init__()
        self.error = error

    def forward(self, lr):
        return lr + self.error * torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("error", "bits", "allowed", "tiled", "expected"),
    [
        (0.0, 8, True, True, True),
        (0.01, 8, True, True, False),
        (0.0, 16, True, True, False),
        (0.0, 8, False, True, False),
        (0.0, 8, True, False, False),
    ],
)
def test_bfloat16_where_it_loses_next_to_nothing(
    error, bits, allowed, tiled, expected, monkeypatch
):
    """In prediction alone, of 8 bits a channel, and only if a command allows it."""
    monkeypatch.setattr("lightning_modules.methods.regression.computes_in_bf16", lambda: True)
    model = lm.Regression(1, network=partial(Rounding, error=error)).eval()
    model.may_use_bf16 = allowed
    batch = lr_batch(20, 22, 1) | {"meta": [{"bit_depth": bits}]}

    model.enlarge(batch, tiled=tiled)

    assert model.uses_bf16 == expected


class Full(Stochastic):
    """Has room for tiles of so many LR pixels."""

    tile = 96
    room = 24

    def restore(self, batch, noise):
        if max(batch["lr"].shape[-2:]) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().restore(batch, noise)


# At last tiles of 24 with an overlap of 12: ceil((side - 12) / (24 - 12)) of them a side.
@pytest.mark.parametrize(("side", "tiles"), [(100, 8 * 8), (90, 7 * 7)])
def test_a_full_card_gets_tiles_of_half_the_side(side, tiles, caplog):
    """Of an image of several tiles, and of one that was not to be cut."""
    batch = lr_batch(side, side)
    model = Full()

    sr = in_tiles(model, batch)

    assert_near(sr, at_once(Stochastic(), batch), 1e-5)
    assert model.tile_count == tiles
    assert [record.args for record in caplog.records] == [(96, 48), (48, 24)]  # from, to


# -------------------------------------------------------------------------- what a method may set


class Tinted(Stochastic):
    """Nearest neighbour with a tint."""

    def restore(self, batch, noise):
        return functional.interpolate(batch["lr"], batch["size"]) * 0.8 + 0.1


def test_colors_are_fixed_once_behind_the_tiles():
    batch = lr_batch(60, 62)
    plain = in_tiles(Tinted(), batch)
    model = Tinted()
    model.color_fix = "wavelet"

    sr = in_tiles(model, batch)

    assert torch.equal(sr, fix_colors(plain, batch["lr"], "wavelet"))
    assert (sr - plain).abs().max() > 0.02  # it does change something


def test_a_method_with_tile_always_is_cut_in_evaluation_too():
    """The size of tiles is then among the settings beside the number."""
    model = Stochastic().eval()
    model.set_tiling(Tiling(64))
    assert model.output_settings == {}

    model.tile_always = True
    model.test_step(lr_batch(100, 100), 0)

    assert model.tile_count > 1
    assert model.output_settings == {"tiling.size": 64}


def test_no_tile_is_smaller_than_the_methods_least():
    class Filling(Full):
        tile_least = 50  # 96 / 2 is below it
        room = 50

    model = Filling()
    batch = lr_batch(140, 140)
    in_tiles(model, batch)
    assert model.tile_count == 16  # ceil((140 - 12) / (50 - 12)) a side, with the overlap of 12

    in_tiles(model, batch, size=50)
    with pytest.raises(ValueError, match=r"tiling\.size is 49, and Filling pads .* to 50"):
        in_tiles(model, batch, size=49)


@pytest.mark.parametrize(("scale", "side"), [(1, 366), (2, 366), (4, 255), (5, 255), (12, 128)])
def test_tiles_are_as_few_and_small_as_they_can_be(scale, side):
    """Of at most 640 pixels, an output of 1280 or four overlaps, whichever decides.

    With the overlap of 32: (700 + 32) / 2, (700 + 2 * 32) / 3 rounded up, and 4 * 32.
    """
    sides = set()

    class Watched(lm.Bicubic):
        def restore(self, batch, noise):
            sides.add(batch["lr"].shape[-1])
            return super().restore(batch, noise)

    in_tiles(Watched(scale), lr_batch(4, 700, scale))

    assert sides == {side}
