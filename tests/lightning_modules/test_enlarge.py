"""Large images by a whole method: the same in tiles as at once, in pixels or in latents."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.backbone.space import PixelSpace
from lightning_modules.base import SuperResolver
from lightning_modules.controls.simple import Bicubic
from lightning_modules.methods.casarbi import CasArbi, ShiftSampling, Stages
from lightning_modules.methods.regression import Regression
from lightning_modules.methods.resshift import ResShift
from lightning_modules.networks.edsr import EDSR
from lightning_modules.networks.liif import LIIF, AnySize
from lightning_modules.networks.rrdb import RRDBNet
from lightning_modules.sampling.color import fix_colors
from lightning_modules.sampling.solvers import residual_shift
from lightning_modules.sampling.tiling import Tiling
from tests.make import batch_of, fill


class Plain(SuperResolver):
    """Base of the methods here, which are not trained."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise NotImplementedError


class Stochastic(Plain):
    """Two steps of residual shifting in pixels; looks one pixel of LR around each."""

    tile, tile_overlap = 32, 12

    def __init__(self, scale: float = 2.0) -> None:
        super().__init__(scale)
        self.net = nn.Conv2d(6, 3, 3, padding=1)
        fill(self)

    def restore(self, batch: Any, noise: Any) -> Tensor:
        y = functional.interpolate(batch["lr"], batch["size"])
        x = y + noise.normal(y.shape).to(y)
        for eta, previous in ((1.0, 0.4), (0.4, 0.0)):
            x_0 = self.net(torch.cat([x, y], 1))
            x = residual_shift(x, x_0, eta, previous, 1.0, noise.normal(y.shape))
        return 0.5 + 0.2 * x


def predicted(model: SuperResolver, images: Any, **tiling: Any) -> Tensor:
    model.set_tiling(Tiling(**tiling))
    found = model.eval().predict_step(images, 0)
    assert found is not None
    return found["sr"]


@pytest.mark.parametrize("side", [1, 2, 15])
def test_what_is_smaller_than_a_tile(side: int) -> None:
    model, batch = Stochastic(), batch_of(1, side)
    whole = model.eval().test_step(batch, 0)["sr"]
    assert torch.equal(predicted(model, batch), whole)


class Near(nn.Module):
    """A denoiser that looks one pixel around each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        return self.conv(x)


SMALL = partial(LIIF, blocks=1, channels=8, hidden=(16,), global_skip=True)
ANY_SIZE = partial(AnySize, network=partial(EDSR, blocks=1, channels=8))
SAMPLING = ShiftSampling(timesteps=[14, 0], guidance=0.5)
METHODS: dict[str, Any] = {
    "bicubic": Bicubic,
    "LIIF": partial(Regression, network=SMALL),
    "EDSR": partial(Regression, network=ANY_SIZE),
    "cascade by 2": lambda scale: CasArbi(scale, SMALL, network=Near(), sampling=SAMPLING),
    "cascade by 1.5": lambda scale: CasArbi(scale, SMALL, network=Near(), stages=Stages(1.5)),
    "ResShift": lambda scale: ResShift(scale, Near(), PixelSpace(), timesteps=[14, 4, 0]),
}


@pytest.mark.parametrize("method", METHODS)
@given(
    sides=st.tuples(st.integers(70, 100), st.integers(70, 100)),
    scale=st.sampled_from([1.5, 2.5, 3.0, 3.7]),
    stretch=st.floats(0.8, 1.2),
    options=st.tuples(st.integers(60, 80), st.sampled_from(["linear", "gaussian"])),
)
@settings(max_examples=3, deadline=None, derandomize=True, phases=[Phase.generate])
def test_a_tile_is_a_part_of_the_whole(
    method: str, sides: Any, scale: float, stretch: float, options: Any
) -> None:
    """Where no cut between LR pixels is one between output pixels, and sides differ in factor."""
    h, w = sides
    target = (round(h * scale), round(w * scale * (stretch if method != "ResShift" else 1)))
    model = fill(METHODS[method](scale)).eval()
    if isinstance(model, CasArbi):
        model.sigma_r.fill_(0.1)
    batch = {**batch_of(1, h), "lr": torch.rand(1, 3, h, w), "size": target}
    whole = model.enlarge(batch)["sr"]
    found = predicted(model, batch, size=options[0], window=options[1], overlap=44, batch=2)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [100, 101])
@pytest.mark.parametrize("method", [Regression, partial(CasArbi, network=None)])
def test_pixels_that_a_network_folds_keep_their_phase(
    method: Any, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the tile at the end of an odd side would start within a square."""
    monkeypatch.setattr(
        "lightning_modules.networks.rrdb.GROWTH", 4
    )  # so that far pixels count little
    network = partial(RRDBNet, channels=8, blocks=1)
    model, batch = method(2, partial(AnySize, network=network)), batch_of(1, side)
    fill(model)
    batch["lr"], batch["size"] = batch["lr"][..., :side], (2 * side, 2 * side)
    whole = model.eval().test_step(batch, 0)["sr"]
    found = predicted(model, batch, size=64, overlap=32)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-3)


@pytest.mark.parametrize("scale", [2.0, 3.7])
def test_tiles_of_one_pass_overlap_by_what_it_sees(scale: float) -> None:
    """By default, so that they change nothing; of any network that does not see everything."""
    model = fill(Regression(scale, network=ANY_SIZE)).eval()
    batch = {**batch_of(1, 100), "lr": torch.rand(1, 3, 90, 100)}
    batch["size"] = (round(90 * scale), round(100 * scale))
    whole = model.enlarge(batch)["sr"]
    found = predicted(model, batch, size=56)
    assert model.tile_size is not None
    assert max(model.tile_size) <= 56
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("memory", "tiles"), [(1 << 40, 1), (50_000_000, 4 * 4)])
def test_memory_decides_how_large_tiles_are(
    memory: int, tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.methods.regression.free_memory", lambda _: memory)
    model, batch = fill(Regression(1, network=ANY_SIZE)).eval(), batch_of(1, 700)
    batch["lr"] = torch.rand(1, 3, 700, 700)
    batch["size"] = (700, 700)
    found = predicted(model, batch)
    assert model.tile_count == tiles
    torch.testing.assert_close(found, model.enlarge(batch)["sr"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("error", [0.0, 0.01])
def test_bfloat16_where_it_loses_next_to_nothing(
    error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In prediction alone, of 8 bits a channel, and only if a command allows it."""

    class Rounding(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()

        def forward(self, lr: Tensor) -> Tensor:
            return lr + error * torch.is_autocast_enabled("cpu")

    monkeypatch.setattr("lightning_modules.methods.regression.computes_in_bf16", lambda: True)
    model, batch = Regression(1, network=Rounding).eval(), batch_of(1, 20, scale=1.0)
    batch["meta"] = [{"bit_depth": 8}]
    model.enlarge(batch, tiled=True)
    assert not model.uses_bf16
    model.may_use_bf16 = True
    model.enlarge(batch, tiled=True)
    assert model.uses_bf16 == (error == 0)
    model.enlarge(batch)
    assert not model.uses_bf16
    batch["meta"] = [{"bit_depth": 16}]
    model.enlarge(batch, tiled=True)
    assert not model.uses_bf16


class Full(Stochastic):
    """Has room for tiles of so many LR pixels."""

    tile, room = 96, 24

    def restore(self, batch: Any, noise: Any) -> Tensor:
        if max(batch["lr"].shape[-2:]) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().restore(batch, noise)


@pytest.mark.parametrize(("side", "tiles"), [(100, 8 * 8), (90, 7 * 7)])
def test_a_full_card_gets_tiles_of_half_the_side(caplog: Any, side: int, tiles: int) -> None:
    """Of an image of several tiles, and of one that was not to be cut."""
    model, batch = Full(), batch_of(1, side)
    batch["lr"], batch["size"] = batch["lr"][..., :side], (2 * side, 2 * side)
    expected = Stochastic().eval().test_step(batch, 0)["sr"]
    with caplog.at_level("WARNING"):
        found = predicted(model, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert model.tile_count == tiles
    assert [r.args for r in caplog.records] == [(96, 48), (48, 24)]


class Fixed(Plain):
    """Nearest neighbour with a tint, and colours that come from elsewhere if it is asked to."""

    tile, tile_overlap = 32, 12

    def __init__(self, scale: float = 2.0, color_fix: Any = "none") -> None:
        super().__init__(scale, color_fix=color_fix)

    def restore(self, batch: Any, noise: Any) -> Tensor:
        return functional.interpolate(batch["lr"], batch["size"]) * 0.8 + 0.1


@pytest.mark.parametrize("kind", ["wavelet", "adain_wavelet"])
def test_colors_once_and_behind_the_tiles(kind: Any) -> None:
    batch = batch_of(1, 60)
    plain = predicted(Fixed(), batch)
    found = predicted(Fixed(color_fix=kind), batch)
    assert torch.equal(found, fix_colors(plain, batch["lr"], kind))
    assert (found - plain).abs().max() > 0.02


class TestAttributes:
    def test_some_methods_cut_in_evaluation(self) -> None:
        class Always(Stochastic):
            tile_always = True

        model, batch = Always(), batch_of(1, 60)
        model.eval().test_step(batch, 0)
        assert model.tile_count > 1
        model.set_tiling(Tiling(64))
        assert model.output_settings == {"tiling.size": 64}  # another number
        cut_in_prediction = Stochastic()
        cut_in_prediction.set_tiling(Tiling(64))
        assert cut_in_prediction.output_settings == {}

    def test_no_tile_is_smaller_than_the_least(self) -> None:
        class Filling(Full):
            tile, tile_overlap, tile_least, room = 96, 12, 50, 50

        model, batch = Filling(), batch_of(1, 140)
        predicted(model, batch)
        assert model.tile_count == 16
        predicted(model, batch, size=50)
        with pytest.raises(ValueError, match=r"tiling\.size is 49, and Filling pads .* to 50"):
            predicted(model, batch, size=49)

    @pytest.mark.parametrize(("scale", "side"), [(1, 366), (2, 366), (4, 255), (5, 255), (12, 128)])
    def test_how_large_they_are(self, scale: int, side: int) -> None:
        """As few and small as they can be, of at most 640, an output of 1280 or four overlaps."""

        class Watched(Bicubic):
            def restore(self, batch: Any, noise: Any) -> Tensor:
                sides.add(batch["lr"].shape[-1])
                return super().restore(batch, noise)

        sides: set[int] = set()
        lr, size = torch.rand(1, 3, 4, 700), (4 * scale, 700 * scale)
        batch = {"key": ["a"], "seed": torch.zeros(1, dtype=torch.int64), "lr": lr, "size": size}
        predicted(Watched(scale), batch)
        assert sides == {side}
