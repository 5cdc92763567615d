"""Tiles: no seam for what the overlap covers, at any size, scale and overlap."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lightning_modules.noise import Noise
from lightning_modules.sampling.tiling import grid, joined, restore_tiled, spans


def batch_of(h: int, w: int, scale: float = 2.0, count: int = 1):
    return {
        "key": [str(i) for i in range(count)],
        "seed": torch.arange(count) + 5,
        "size": (round(h * scale), round(w * scale)),
        "lr": torch.rand(count, 3, h, w, generator=torch.Generator().manual_seed(0)),
    }


def enlarge(batch, noise):
    """Nearest neighbour: each output pixel depends on one LR pixel."""
    return functional.interpolate(batch["lr"], batch["size"], mode="nearest-exact")


def blur(radius: int, scale: int = 2):
    """A restorer that looks `radius` pixels around each."""
    generator = torch.Generator().manual_seed(1)
    kernel = torch.rand(3, 1, 2 * radius + 1, 2 * radius + 1, generator=generator)
    kernel /= kernel.sum((1, 2, 3), keepdim=True)

    def restore(batch, noise):
        y = functional.conv2d(batch["lr"], kernel, padding=radius, groups=3)
        return y.repeat_interleave(scale, 2).repeat_interleave(scale, 3)

    return restore


def tiled(restore, batch, tile, overlap, window="linear", at_once=1):
    tiles = grid(batch["lr"].shape[-2:], batch["size"], (tile, tile), overlap, window)
    pieces = restore_tiled(restore, batch, tiles, at_once)
    return joined(pieces, batch["lr"], batch["size"])


def whole(restore, batch):
    return restore(batch, Noise(batch["seed"]))


class TestResult:
    @pytest.mark.parametrize(
        ("window", "radius", "overlap"),
        [("linear", 1, 4), ("linear", 4, 16), ("gaussian", 4, 16)],
    )
    @pytest.mark.parametrize("scale", [1, 2, 3])
    def test_what_the_overlap_covers_is_exact(self, window, radius, overlap, scale):
        """A quarter of it."""
        batch = batch_of(70, 61, scale)
        sr = tiled(blur(radius, scale), batch, 32, overlap, window)
        torch.testing.assert_close(sr, whole(blur(radius, scale), batch), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("at_once", [2, 5, 100])
    @pytest.mark.parametrize("scale", [2, 2.7])
    def test_several_tiles_at_once(self, at_once, scale):
        """Each with the noise of its own place and image, and with what is said of it."""
        counts = []

        def restore(batch, noise):
            counts.append(len(batch["lr"]))
            assert len(batch["key"]) == len(batch["text"]) == len(batch["seed"]) == counts[-1]
            assert [int(text) for text in batch["text"]] == batch["seed"].tolist()
            return enlarge(batch, noise) + noise.normal((counts[-1], 3, *batch["size"]))

        batch = batch_of(70, 61, scale, count=2)
        batch["text"] = [str(int(seed)) for seed in batch["seed"]]
        expected = tiled(restore, batch, 32, 8)
        assert set(counts) == {2}
        several = tiled(restore, batch, 32, 8, at_once=at_once)
        torch.testing.assert_close(several, expected, rtol=0, atol=1e-5)
        assert 2 < max(counts) <= 2 * at_once


class TestTiles:
    def test_the_rest_of_the_batch_goes_along_without_the_answer(self):
        def restore(part, noise):
            assert (part["key"], part["text"], "hr" in part) == (["0"], ["sea"], False)
            return enlarge(part, noise)

        tiled(restore, {**batch_of(40, 30), "text": ["sea"], "hr": torch.rand(1, 3, 80, 60)}, 16, 4)

    def test_an_overlap_is_as_noisy_as_the_rest(self):
        """Two samples of noise would be averaged there, and fine detail lost."""

        def restore(batch, noise):
            return noise.normal((1, 3, *batch["size"]))

        batch = batch_of(90, 80)
        sr = tiled(restore, batch, 32, 16)
        again = tiled(restore, batch, 48, 16)  # other tiles, and nearly the same field
        assert abs(sr.std() - 1) < 0.03
        torch.testing.assert_close(sr, again, rtol=0, atol=1e-5)


class TestSpans:
    @given(
        st.integers(1, 400),
        st.floats(1, 8),
        st.integers(1, 64),
        st.sampled_from(["linear", "gaussian"]),
        st.data(),
    )
    @settings(max_examples=100, deadline=None)
    def test_cover_everything(self, side, scale, tile, window, data):
        overlap = data.draw(st.integers(0, tile - 1))
        out_side = round(side * scale)
        found = spans(side, out_side, tile, overlap, window)
        weight = torch.zeros(out_side)
        for span, used, own, done in found:
            assert 0 <= span.lr.start < span.lr.stop <= side
            assert span.lr.stop - span.lr.start <= tile
            assert span.out.start <= used.start < done <= used.stop <= span.out.stop
            assert len(own) == used.stop - used.start
            assert 0 <= own.min() <= own.max() <= 1
            weight[used] += own
        found = [weighted.span for weighted in found]
        assert (weight - 1).abs().max() < 1e-6
        assert (found[0].lr.start, found[0].out.start) == (0, 0)
        assert (found[-1].lr.stop, found[-1].out.stop) == (side, out_side)
        for before, after in itertools.pairwise(found):
            assert before.lr.stop - after.lr.start >= overlap
            assert before.out.stop - after.out.start >= overlap * out_side // side
            assert after.lr.stop > before.lr.stop
        assert len({span.lr.stop - span.lr.start for span in found}) == 1
        assert len(found) == max(1, math.ceil((side - overlap) / (tile - overlap)))  # the fewest

    @given(st.integers(1, 400), st.integers(1, 64), st.integers(1, 16), st.data())
    @settings(max_examples=100, deadline=None)
    def test_on_one_lattice(self, side, tile, multiple, data):
        rounded = tile + -tile % multiple
        overlap = data.draw(st.integers(0, rounded - multiple))
        found = [each.span for each in spans(side, 4 * side, tile, overlap, multiple=multiple)]
        assert not any(span.lr.start % multiple for span in found)
        assert not any(span.lr.stop % multiple for span in found[:-1])
        for before, after in itertools.pairwise(found):
            assert before.lr.stop - after.lr.start >= overlap

    def test_windows(self):
        """Two tiles of 16, which share 8: what is thrown away, and what is blended."""
        shared = slice(8, 16)
        weights = spans(24, 24, 16, 8, "linear")[0].weights
        expected = [1, 1, 7 / 8, 5 / 8, 3 / 8, 1 / 8]  # and none for the two outer pixels
        torch.testing.assert_close(weights[shared], torch.tensor(expected))

    def test_a_gaussian_window_prefers_the_middle_of_a_tile(self):
        """Three tiles in one place, for the last one is moved back."""
        gaussian, linear = (spans(40, 40, 32, 24, window) for window in ("gaussian", "linear"))
        assert gaussian[0].weights[16] > linear[0].weights[16]
        assert [one.used for one in gaussian] == [one.used for one in linear]


# ------------------------------------------------------------------------------ as InvSR's release


def released_weights(size):
    """``cv2.getGaussianKernel`` of a tap more, without the first tap: the size is even."""
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    return np.exp(-((np.arange(1, size + 1) - size / 2) ** 2) / (2 * sigma**2))


def released_starts(length, patch, stride):
    """0, stride, ...; those that overrun are moved back, and what is double is left out."""
    return list(dict.fromkeys(min(start, length - patch) for start in range(0, length, stride)))


def test_what_is_blended_as_released():
    """Each tile is a number of its own; the blend by hand, in two dimensions as released."""
    size, scale, patch, stride = (44, 60), 4, 16, 8
    made = []

    def numbered(batch, noise):
        made.append(torch.rand(1, 3, *batch["size"]))
        return made[-1].clone()

    batch = batch_of(*size, scale)
    found = tiled(numbered, batch, patch, patch - stride, "released")
    one = released_weights(patch * scale)
    weight = np.outer(one, one)
    total, weights = np.zeros((3, *batch["size"])), np.zeros(batch["size"])
    starts = itertools.product(*(released_starts(side, patch, stride) for side in size))
    for tile, (top, left) in zip(made, starts, strict=True):
        rows, columns = (slice(scale * n, scale * (n + patch)) for n in (top, left))
        total[:, rows, columns] += tile[0].double().numpy() * weight
        weights[rows, columns] += weight
    np.testing.assert_allclose(found[0], total / weights, rtol=0, atol=1e-6)
