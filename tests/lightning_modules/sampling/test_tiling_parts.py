"""Tiles of a method's parts, the bar, and what a user may ask for."""

from __future__ import annotations

import io
from fractions import Fraction

import pytest
import torch
from torch.nn import functional

from lightning_modules.sampling import tiling
from lightning_modules.sampling.tiling import Tiling, grid, restore_tiled
from tests.lightning_modules.sampling.test_tiling import batch_of, enlarge


class TestParts:
    """Encoders, decoders and denoisers in tiles."""

    def kernel(self, factor=1):
        generator = torch.Generator().manual_seed(2)
        return torch.randn(5, 4, 3 * factor, 3 * factor, generator=generator) / 50

    def test_a_denoiser(self):
        x = torch.rand(2, 4, 50, 61)

        def predict(z):
            return functional.conv2d(z, self.kernel(), padding=1)

        found = tiling.tiled(predict, x, 24, 8)
        torch.testing.assert_close(found, predict(x), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("size", [(96, 136), (40, 200), (24, 24)])
    def test_an_encoder(self, size):
        """Its tiles begin where latents do, however they are asked for."""
        x = torch.rand(1, 4, *size)

        def encode(z):
            return functional.conv2d(z, self.kernel(8), stride=8, padding=8)

        found = tiling.tiled(encode, x, 41, 27, factor=Fraction(1, 8))
        assert found.shape == (1, 5, size[0] // 8, size[1] // 8)
        torch.testing.assert_close(found, encode(x), rtol=0, atol=1e-5)

    def test_a_decoder(self):
        z = torch.rand(1, 4, 30, 41)

        def decode(z):
            wide = functional.interpolate(z, scale_factor=8, mode="nearest")
            return functional.conv2d(wide, self.kernel(), padding=1)

        found = tiling.tiled(decode, z, 12, 4, factor=8, at_once=3)
        torch.testing.assert_close(found, decode(z), rtol=0, atol=1e-5)

    def test_what_is_no_larger_than_a_tile_goes_at_once(self):
        x, calls = torch.rand(1, 4, 24, 20), []

        def watched(z):
            calls.append(z)
            return z

        assert tiling.tiled(watched, x, 24, 8) is x
        assert calls[0] is x

    def test_the_type_is_kept(self):
        found = tiling.tiled(lambda z: z, torch.rand(1, 4, 50, 20).bfloat16(), 24, 8)
        assert found.dtype == torch.bfloat16


class Terminal(io.StringIO):
    def __init__(self, is_one):
        super().__init__()
        self.is_one = is_one

    def isatty(self):
        return self.is_one


@pytest.mark.parametrize(
    ("seconds", "is_one", "bar", "shown"),
    [
        (0, True, True, True),
        (0, False, True, False),
        (0, True, False, False),
        (100, True, True, False),
    ],
)
def test_a_bar_over_slow_tiles_in_a_terminal(monkeypatch, seconds, is_one, bar, shown):
    screen = Terminal(is_one)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("lightning_modules.sampling.tiling.SHORT", seconds)
    batch = batch_of(70, 70)
    tiles = grid((70, 70), batch["size"], 16, 4)
    restore_tiled(enlarge, batch, tiles, bar=bar)
    assert (f"/{len(tiles)}" in screen.getvalue()) == shown


class TestTiling:
    def test_the_methods_own_by_default(self):
        assert (Tiling().size, Tiling().overlap, Tiling().window) == ("auto", None, None)

    def test_what_is_asked_for(self):
        assert Tiling().options == {}
        assert Tiling(batch=4).options == {}  # makes no other image
        assert Tiling(64, window="flat").options == {"tiling.size": 64, "tiling.window": "flat"}

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"size": 0}, r"tiling\.size is 0; it must be at least 1"),
            ({"overlap": -1}, r"tiling\.overlap is -1; it must be at least 0"),
            ({"batch": 0}, r"tiling\.batch is 0; it must be at least 1"),
            ({"window": "hann"}, r"tiling\.window is 'hann'; expected linear, gaussian, flat"),
            ({"where": "frequency"}, r"tiling\.where is 'frequency'; expected pixels, latent"),
        ],
    )
    def test_what_cannot_be(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            Tiling(**wrong)
