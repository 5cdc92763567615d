"""Noise belongs to the image: by its seed, its stream, its place; and by the run's seed."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

from files.batch import Span, Tile
from lightning_modules.base import SuperResolver
from lightning_modules.noise import Noise, PlacedNoise
from lightning_modules.sampling.tiling import grid
from tests import make
from tests.make import assert_near

SEEDS = torch.arange(16) * 1000003


# ------------------------------------------------------------------------------------ whole images


def test_images_and_calls_differ():
    noise = Noise(SEEDS)
    fields = torch.cat([noise.normal((16, 50)) for _ in range(3)])
    correlation = torch.corrcoef(fields) - torch.eye(48)
    assert correlation.abs().max() < 0.7  # 0.14 is one standard deviation


def test_a_seed_has_the_same_field_for_ever():
    field = Noise(torch.tensor([12345])).normal((1, 3))
    assert_near(field, torch.tensor([[0.632896, 1.635226, 0.304509]]), 1e-6)


def test_float32_whatever_the_default_is():
    expected = Noise(SEEDS).normal((16, 8))
    torch.set_default_dtype(torch.bfloat16)
    try:
        field = Noise(SEEDS).normal((16, 8))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(field, expected)


@pytest.mark.gpu
def test_a_gpu_gets_the_same_fields():
    on_gpu = Noise(SEEDS, torch.device("cuda")).normal((16, 8))
    assert torch.equal(on_gpu.cpu(), Noise(SEEDS).normal((16, 8)))


def test_a_stream_is_its_own_whatever_else_is_drawn():
    seeds = torch.arange(2)
    field = Noise(seeds).stream(1).normal((2, 3))

    noise = Noise(seeds)
    first = noise.normal((2, 3))
    other = noise.stream(0).normal((2, 3))

    assert torch.equal(noise.stream(1).normal((2, 3)), field)
    assert not torch.equal(first, field)
    assert not torch.equal(other, field)


# ------------------------------------------------------------------------------------------- tiles


def placed(top, left, h, w, factor, stream=None):
    """The field of the output of a tile of LR, in an image of 100 x 100 there."""
    sides = []
    for start, length in ((top, h), (left, w)):
        lr = slice(start, start + length)
        out = slice(factor * start, factor * (start + length))
        sides.append(Span(lr, out, 100, 100 * factor))
    noise = PlacedNoise(torch.arange(2), [Tile(*sides)] * 2)
    if stream is not None:
        noise = noise.stream(stream)
    return noise.normal((2, 3, factor * h, factor * w))


@pytest.mark.parametrize(("factor", "stream"), [(2, None), (2, 1), (3, None)])
@pytest.mark.parametrize("place", [(0, 0, 40, 50), (31, 17, 60, 73), (60, 50, 40, 40)])
def test_a_tile_has_its_part_of_the_images_field(factor, stream, place):
    """Over the borders of the squares that are drawn together."""
    image = placed(0, 0, 100, 90, factor, stream)
    top, left, h, w = (factor * number for number in place)
    expected = image[..., top : top + h, left : left + w]
    assert torch.equal(placed(*place, factor, stream), expected)


@pytest.mark.parametrize(
    ("side", "out_side"),
    [(2301, 6213), (2301, 7593), (2301, 7013), (2300, 2950), (2304, 9216)],
)
@pytest.mark.parametrize("field", ["output", "lr", "twice lr", "half of lr"])
def test_neighbours_draw_alike_at_any_ratio(side, out_side, field):
    """2.7, 3.3 and free sizes: a tile's own ratio of sizes is another than the image's."""
    (row,) = grid((16, side), (40, out_side), (200, 200), 32, multiple=2)
    begins = []
    fields = []
    for tile in (each.tile for each in row):
        start = tile.columns.lr.start
        width = tile.side[1]
        begin, count = {
            "output": (tile.columns.out.start, tile.size[1]),
            "lr": (start, width),
            "twice lr": (2 * start, 2 * width),
            "half of lr": (start // 2, -(-width // 2)),
        }[field]
        begins.append(begin)
        fields.append(PlacedNoise(torch.zeros(1).long(), [tile]).normal((1, 1, count))[0, 0])

    assert len(fields) > 10
    for number, (before, after) in enumerate(itertools.pairwise(fields)):
        shared = begins[number] + len(before) - begins[number + 1]
        assert shared > 15
        assert torch.equal(before[-shared:], after[:shared])


# ----------------------------------------------------------------------------------- the run's seed


class Plain(SuperResolver):
    """Draws nothing."""

    def training_step(self, batch, batch_idx):
        raise NotImplementedError

    def restore(self, batch, noise):
        return functional.interpolate(batch["lr"], batch["size"])


class Tiled(make.Model):
    tile = 16
    tile_overlap = 4


@pytest.mark.parametrize("kind", [make.Model, Tiled, make.Painter])
def test_the_runs_seed_changes_what_is_drawn(kind):
    model = kind(2.0).eval()
    batch = make.batch_of(2, 20)
    first = model.predict_step(batch, 0)["sr"]

    model.set_noise_seed(1)
    other = model.predict_step(batch, 0)["sr"]
    model.set_noise_seed(0)

    assert torch.equal(model.predict_step(batch, 0)["sr"], first)
    assert not torch.equal(other[0], first[0])
    assert not torch.equal(other[1], first[1])


@pytest.mark.parametrize(
    ("kind", "draws"), [(make.Model, True), (Tiled, True), (make.Painter, True), (Plain, False)]
)
def test_a_model_knows_whether_it_drew_anything(kind, draws):
    model = kind(2.0).eval()
    assert not model.drew_noise
    model.predict_step(make.batch_of(1, 20), 0)
    assert model.drew_noise == draws
