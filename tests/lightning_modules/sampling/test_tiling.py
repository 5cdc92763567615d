"""Tiles: no seam for what the overlap covers, at any size; mirrored borders, cut back exactly."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from lightning_modules.sampling.tiling import grid, joined, padded, restore_tiled, spans
from tests.make import assert_near, lr_batch, uniform

# ------------------------------------------------------------------------------------ the outputs


@pytest.mark.parametrize("scale", [2, 2.7])
def test_tiles_that_are_restored_in_batches_equal_tiles_restored_one_by_one(scale):
    """A batch of tiles, of two images here, has the noise, seed and text of each tile's image."""
    parts = []  # the batches in which tiles are restored

    def restore(batch, noise):
        parts.append(batch)
        enlarged = functional.interpolate(batch["lr"], batch["size"], mode="nearest-exact")
        return enlarged + noise.normal(enlarged.shape)

    def tiled(at_once):
        tiles = grid((70, 61), batch["size"], tile=(32, 32), overlap=8)
        return joined(restore_tiled(restore, batch, tiles, at_once), batch["lr"], batch["size"])

    batch = lr_batch(70, 61, scale, count=2) | {"text": ["0", "1"], "hr": torch.zeros(2)}
    one_by_one = tiled(at_once=1)
    assert {len(part["lr"]) for part in parts} == {2}  # one tile of each image

    assert_near(tiled(at_once=5), one_by_one, 1e-5)
    assert 2 < max(len(part["lr"]) for part in parts) <= 5 * 2
    for part in parts:
        assert "hr" not in part  # which is not cut into tiles
        assert [int(text) for text in part["text"]] == part["seed"].tolist()


# ----------------------------------------------------------------------------------- their places


SIDES = {"side": st.integers(1, 400), "tile": st.integers(1, 64), "data": st.data()}
SCALE = st.floats(1, 8)
WINDOW = st.sampled_from(["linear", "gaussian"])


@given(**SIDES, scale=SCALE, window=WINDOW)
def test_weights_of_tiles_add_up_to_1_at_each_pixel(side, tile, data, scale, window):
    """Else seams would be darker or brighter than the image."""
    overlap = data.draw(st.integers(0, tile - 1))
    out_side = round(side * scale)

    weighted = spans(side, out_side, tile, overlap, window)

    total = torch.zeros(out_side)
    for span, used, weights, done in weighted:
        assert 0 <= span.lr.start < span.lr.stop <= side
        assert span.out.start <= used.start < done <= used.stop <= span.out.stop
        assert 0 <= weights.min() <= weights.max() <= 1
        total[used] += weights
    assert_near(total, torch.ones(out_side), 1e-6)


@given(**SIDES, scale=SCALE)
def test_tiles_cover_an_image_with_the_overlap_and_are_as_few_as_can_be(side, tile, data, scale):
    """Each further tile costs a pass of the network."""
    overlap = data.draw(st.integers(0, tile - 1))
    out_side = round(side * scale)

    tiles = [weighted.span for weighted in spans(side, out_side, tile, overlap)]

    (length,) = {span.lr.stop - span.lr.start for span in tiles}
    assert length <= tile
    assert tiles[0].out.start == 0
    assert tiles[-1].out.stop == out_side
    for before, after in itertools.pairwise(tiles):
        assert before.lr.stop - after.lr.start >= overlap
        assert before.out.stop - after.out.start >= overlap * out_side // side
    # Each further tile adds its length less the overlap.
    assert len(tiles) == max(1, math.ceil((side - overlap) / (tile - overlap)))


@given(**SIDES, multiple=st.integers(1, 16))
def test_tiles_begin_and_end_at_multiples(side, tile, data, multiple):
    """So that latents, each of `multiple` pixels, lie on one lattice; the last tile ends freely."""
    rounded = tile + -tile % multiple
    overlap = data.draw(st.integers(0, rounded - multiple))

    weighted = spans(side, 4 * side, tile, overlap, multiple=multiple)

    tiles = [each.span.lr for each in weighted]
    assert all(span.start % multiple == 0 for span in tiles)
    assert all(span.stop % multiple == 0 for span in tiles[:-1])
    for before, after in itertools.pairwise(tiles):
        assert before.stop - after.start >= overlap


def test_the_linear_window_falls_in_the_middle_of_the_overlap():
    """The first of two tiles from 0 to 16 and from 8 to 24, at its last eight pixels.

    A quarter of the eight, two, are left out at its end, and two at the start of the other tile.
    Over the four in between, its weight falls from 1 to 0, here at the middle of each pixel.
    """
    weights = spans(24, 24, tile=16, overlap=8, window="linear")[0].weights
    assert weights[8:].tolist() == [1, 1, 7 / 8, 5 / 8, 3 / 8, 1 / 8]


def test_a_gaussian_window_has_more_weight_in_the_middle_of_a_tile():
    """Pixel 16 is the middle of the first of two tiles from 0 to 32 and from 8 to 40.

    Both windows leave out the same pixels at the ends of tiles.
    """
    gaussian = spans(40, 40, tile=32, overlap=24, window="gaussian")
    linear = spans(40, 40, tile=32, overlap=24, window="linear")
    assert gaussian[0].weights[16] > linear[0].weights[16]
    assert [tile.used for tile in gaussian] == [tile.used for tile in linear]


# ------------------------------------------------------------------------------- mirrored borders


def released_padding(lr, minimum, multiple):
    """InvSR's: by up to a side less one in each round to the least size, then to a multiple."""
    top = left = 0
    while min(lr.shape[-2:]) < minimum:
        h, w = lr.shape[-2:]
        rows = max(minimum - h, 0)
        columns = max(minimum - w, 0)
        above = min(rows // 2, h - 1)
        below = min(rows - rows // 2, h - 1)
        before = min(columns // 2, w - 1)
        after = min(columns - columns // 2, w - 1)
        lr = functional.pad(lr, (before, after, above, below), mode="reflect")
        top += above
        left += before
    h, w = lr.shape[-2:]
    lr = functional.pad(lr, (0, -w % multiple, 0, -h % multiple), mode="reflect")
    return lr, top, left


@pytest.mark.parametrize(("h", "w"), [(2, 3), (5, 70), (33, 31), (64, 64), (100, 101)])
@pytest.mark.parametrize(("minimum", "multiple"), [(1, 2), (64, 1), (64, 16), (37, 8)])
def test_padding_is_the_released_reflection_in_rounds(h, w, minimum, multiple):
    lr = uniform(2, 3, h, w)
    result = padded(lr, multiple, minimum)

    expected, top, left = released_padding(lr, minimum, multiple)
    assert torch.equal(result.lr, expected)
    assert (result.top, result.left) == (top, left)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 23), (9, 7), (16, 23)])
def test_padding_is_cut_back_exactly_from_an_output_of_x3(h, w):
    lr = uniform(2, 3, h, w)
    result = padded(lr, multiple=16, minimum=24)

    large = functional.interpolate(result.lr, scale_factor=3, mode="nearest")
    cropped = result.crop(large, (3 * h, 3 * w))

    assert torch.equal(cropped, functional.interpolate(lr, scale_factor=3, mode="nearest"))
