"""Noise belongs to the image."""

from __future__ import annotations

import itertools

import pytest
import torch

from files.batch import Span, Tile
from lightning_modules.noise import SQUARE, Noise, PlacedNoise
from lightning_modules.sampling.tiling import grid

SEEDS = torch.arange(16) * 1000003


def test_images_and_calls_differ():
    noise = Noise(SEEDS)
    fields = torch.cat([noise.normal((16, 50)) for _ in range(3)])
    correlation = torch.corrcoef(fields) - torch.eye(48)
    assert correlation.abs().max() < 0.7  # 0.14 is one standard deviation
    assert not torch.equal(fields[:16], fields[16:32])


KNOWN = [0.632896, 1.635226, 0.304509]


def test_it_never_changes():
    first = Noise(torch.tensor([12345])).normal((1, 3))[0]
    torch.testing.assert_close(first, torch.tensor(KNOWN), rtol=0, atol=1e-6)


def test_float32_whatever_the_default_is():
    torch.set_default_dtype(torch.bfloat16)
    try:
        field = Noise(SEEDS).normal((16, 8))
    finally:
        torch.set_default_dtype(torch.float32)
    assert field.dtype == torch.float32
    assert torch.equal(field, Noise(SEEDS).normal((16, 8)))


@pytest.mark.gpu
def test_a_gpu_gets_the_same_fields():
    on_gpu = Noise(SEEDS, torch.device("cuda")).normal((16, 8))
    assert torch.equal(on_gpu.cpu(), Noise(SEEDS).normal((16, 8)))


def test_a_stream_is_its_own():
    """Whatever else is asked for, and in whichever order."""
    seeds = torch.arange(2)
    noise = Noise(seeds)
    assert not noise.drew
    first = noise.stream(1)
    assert not noise.drew
    a = first.normal((2, 3))
    assert noise.drew
    other = Noise(seeds)
    other.normal((2, 3))
    other.stream(0).normal((2, 3))
    assert torch.equal(other.stream(1).normal((2, 3)), a)
    assert not torch.equal(other.stream(2).normal((2, 3)), a)
    assert not torch.equal(Noise(seeds).normal((2, 3)), a)


def tile_at(place, size, factor=2):
    """A tile that begins at (row, column) of LR, of (h, w) there."""
    sides = []
    for start, n in zip(place, size, strict=True):
        out = slice(factor * start, factor * (start + n))
        sides.append(Span(slice(start, start + n), out, 100, 100 * factor))
    return Tile(*sides)


def placed(place, size, factor=2, **of):
    noise = PlacedNoise(torch.arange(2), [tile_at(place, size, factor)] * 2)
    noise = noise.stream(of["stream"]) if "stream" in of else noise
    return noise.normal((2, 3, factor * size[0], factor * size[1]))


@pytest.mark.parametrize("of", [{}, {"stream": 1}, {"factor": 3}])
def test_tiles_draw_alike_what_they_share(of):
    """Over the borders of the squares that are drawn together."""
    factor = of.get("factor", 2)
    image = placed((0, 0), (100, 90), **of)
    for place, size in (((0, 0), (40, 50)), ((31, 17), (60, 73)), ((60, 50), (40, 40))):
        (top, left), (h, w) = ((factor * a, factor * b) for a, b in (place, size))
        expected = image[..., top : top + h, left : left + w]
        assert torch.equal(placed(place, size, **of), expected)
    assert factor * 100 > 2 * SQUARE


def test_a_field_without_places_is_the_images():
    seeds = torch.arange(2)
    found = PlacedNoise(seeds, [tile_at((8, 8), (4, 4))] * 2).normal((2, 5))
    assert torch.equal(found, Noise(seeds).normal((2, 5)))


SEED = torch.zeros(1, dtype=torch.int64)


@pytest.mark.parametrize(
    ("side", "out_side"),
    [(2301, 6213), (2301, 7593), (2301, 7013), (2300, 2950), (2304, 9216)],
)
@pytest.mark.parametrize("field", ["output", "lr", "twice lr", "half of lr"])
def test_neighbours_draw_alike_at_any_ratio(side, out_side, field):
    """2.7, 3.3 and free sizes: a tile's own ratio of sizes is another than the image's."""
    (row,) = grid((16, side), (40, out_side), (200, 200), 32, multiple=2)  # where halves begin
    tiles = [blended.tile for blended in row]
    drawn, begins = [], []
    for tile in tiles:
        lr, out = tile.columns.lr, tile.columns.out
        begin, n = {
            "output": (out.start, tile.size[1]),
            "lr": (lr.start, tile.side[1]),
            "twice lr": (2 * lr.start, 2 * tile.side[1]),
            "half of lr": (lr.start // 2, -(-tile.side[1] // 2)),
        }[field]
        drawn.append(PlacedNoise(SEED, [tile]).normal((1, 1, n))[0, 0])
        begins.append(begin)
    assert len(tiles) > 10
    for (a, before), (b, after) in itertools.pairwise(zip(begins, drawn, strict=True)):
        shared = a + len(before) - b
        assert shared > 15
        assert torch.equal(before[-shared:], after[:shared])
