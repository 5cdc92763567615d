"""An image's noise follows from its seed, the stream, the place and the run's seed."""

from __future__ import annotations

import math

import pytest
import torch

from files.batch import Span, Tile
from lightning_modules.controls.simple import Bicubic
from lightning_modules.noise import Noise, PlacedNoise
from lightning_modules.sampling.tiling import grid
from tests import make
from tests.make import assert_near

SEEDS = torch.arange(16) * 1000003


# ------------------------------------------------------------------------------------ whole images


def test_noise_of_images_and_of_calls_is_independent():
    noise = Noise(SEEDS)
    fields = torch.cat([noise.normal((16, 50)) for _ in range(3)])
    correlation = torch.corrcoef(fields) - torch.eye(48)
    # Of 50 numbers each, so that one standard deviation is 50^-0.5 = 0.14.
    assert correlation.abs().max() < 0.7


def test_a_seeds_field_is_the_same_in_every_version():
    """Others would change the results of every method that draws."""
    field = Noise(torch.tensor([12345])).normal((1, 3))
    assert_near(field, torch.tensor([[0.632896, 1.635226, 0.304509]]), 1e-6)


def test_noise_is_in_float32_whatever_torchs_default_is():
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


def test_a_stream_does_not_depend_on_what_else_is_drawn():
    field = Noise(SEEDS).stream(1).normal((16, 3))

    noise = Noise(SEEDS)
    first = noise.normal((16, 3))
    other = noise.stream(0).normal((16, 3))

    assert torch.equal(noise.stream(1).normal((16, 3)), field)
    assert not torch.equal(first, field)  # each has a field of its own
    assert not torch.equal(other, field)


# ------------------------------------------------------------------------------------------- tiles


def span(start, length, factor):
    """A part of a side of 100 pixels of LR."""
    lr = slice(start, start + length)
    out = slice(factor * start, factor * (start + length))
    return Span(lr, out, 100, 100 * factor)


def field_of_tile(top, left, h, w, factor):
    """Noise of a tile of h x w LR pixels, for each pixel of the output."""
    tile = Tile(span(top, h, factor), span(left, w, factor))
    noise = PlacedNoise(torch.arange(2), [tile, tile]).stream(1)
    noise.normal((2, 1))  # the second call shall be that of the image, too
    return noise.normal((2, 3, factor * h, factor * w))


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize(("top", "left"), [(0, 0), (31, 17)])
def test_a_tiles_field_is_its_part_of_the_images_field(factor, top, left):
    """Fields are drawn in squares of 64 numbers, over whose borders these tiles reach."""
    h, w = 60, 73
    image = field_of_tile(top=0, left=0, h=100, w=90, factor=factor)
    rows = slice(factor * top, factor * (top + h))
    columns = slice(factor * left, factor * (left + w))
    assert torch.equal(field_of_tile(top, left, h, w, factor), image[..., rows, columns])


@pytest.mark.parametrize(
    ("side", "out_side"),
    [(2301, 6213), (2301, 7593), (2301, 7013), (2300, 2950), (2304, 9216)],
    ids=["x2.7", "x3.3", "a prime side", "x1.28", "x4"],
)
@pytest.mark.parametrize("per_lr_pixel", ["as in the output", 1, 2, 0.5])
def test_tiles_draw_the_same_noise_where_they_overlap_at_any_ratio(side, out_side, per_lr_pixel):
    """A tile's own ratio of output to LR is often not the image's, as its sides are rounded.

    A row of tiles draws fields with a number for each output pixel, or so many for each of LR.
    """
    (row,) = grid((16, side), (40, out_side), tile=(200, 200), overlap=32, multiple=2)
    ends = []
    fields = []
    overlaps = []
    for weighted in row:
        columns = weighted.tile.columns
        start, end = columns.out.start, columns.out.stop
        if per_lr_pixel != "as in the output":
            start = int(columns.lr.start * per_lr_pixel)  # a multiple of 2 in LR
            end = math.ceil(columns.lr.stop * per_lr_pixel)
        if ends:
            overlaps.append(ends[-1] - start)
        ends.append(end)
        noise = PlacedNoise(torch.tensor([0]), [weighted.tile])
        fields.append(noise.normal((1, 1, end - start))[0, 0])

    assert len(fields) > 10
    assert min(overlaps) >= 16  # of 32 LR pixels, half as many numbers
    for left, right, overlap in zip(fields, fields[1:], overlaps, strict=False):
        assert torch.equal(left[-overlap:], right[:overlap])


# ----------------------------------------------------------------------------------- the run's seed


class Tiled(make.Model):
    tile = 16
    tile_overlap = 4


@pytest.mark.parametrize("kind", [make.Model, Tiled, make.Painter])
def test_the_runs_seed_changes_what_is_drawn(kind):
    model = kind(2.0).eval()
    batch = make.batch_of(2, side=20)  # larger than a tile
    with_seed_0 = model.predict_step(batch, 0)["sr"]

    model.set_noise_seed(1)
    with_seed_1 = model.predict_step(batch, 0)["sr"]
    model.set_noise_seed(0)
    with_seed_0_again = model.predict_step(batch, 0)["sr"]

    assert torch.equal(with_seed_0_again, with_seed_0)
    assert not torch.equal(with_seed_1[0], with_seed_0[0])
    assert not torch.equal(with_seed_1[1], with_seed_0[1])


@pytest.mark.parametrize("kind", [make.Model, Tiled, make.Painter, Bicubic])
def test_a_model_knows_whether_it_drew_noise(kind):
    """By which results name the seed, and are repeated with others; bicubic's are not."""
    model = kind(2.0).eval()
    assert not model.drew_noise
    model.predict_step(make.batch_of(1, side=20), 0)
    assert model.drew_noise == (kind is not Bicubic)
