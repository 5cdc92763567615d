"""Tiles: no seam for what the overlap covers, at any size, scale and overlap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from degradations.bicubic import resize
from lightning_modules.noise import Noise
from lightning_modules.sampling.tiling import Tiling, grid, restore_tiled, spans


def batch_of(h: int, w: int, scale: float = 2.0, count: int = 1, constant: float | None = None):
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(count, 3, h, w, generator=generator)
    return {
        "key": [str(i) for i in range(count)],
        "seed": torch.arange(count) + 5,
        "size": (round(h * scale), round(w * scale)),
        "lr": lr if constant is None else torch.full_like(lr, constant),
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
    tiles = grid(batch["lr"].shape[-2:], batch["size"], tile, overlap, window)
    return restore_tiled(restore, batch, tiles, at_once)


def whole(restore, batch):
    return restore(batch, Noise(batch["seed"]))


class TestResult:
    @pytest.mark.parametrize("scale", [1.0, 1.5, 2.0, 2.5, 3.0, 3.7, 4.0])
    @pytest.mark.parametrize(("tile", "overlap"), [(16, 0), (16, 1), (16, 5), (16, 8), (16, 15)])
    def test_a_constant_stays_constant(self, scale, tile, overlap):
        batch = batch_of(37, 53, scale, constant=0.3)
        sr = tiled(enlarge, batch, tile, overlap)
        assert sr.shape == (1, 3, *batch["size"])
        assert (sr - 0.3).abs().max() < 1e-6

    @pytest.mark.parametrize(("radius", "overlap"), [(1, 4), (2, 8), (3, 12), (4, 16)])
    @pytest.mark.parametrize("scale", [1, 2, 3])
    def test_what_a_quarter_of_the_overlap_covers_is_exact(self, radius, overlap, scale):
        batch = batch_of(70, 61, scale)
        sr = tiled(blur(radius, scale), batch, 32, overlap)
        torch.testing.assert_close(sr, whole(blur(radius, scale), batch), rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("window", "radius", "overlap"),
        [("gaussian", 2, 8), ("gaussian", 4, 16), ("flat", 4, 8), ("flat", 8, 16)],
    )
    @pytest.mark.parametrize("scale", [1, 3])
    def test_so_it_is_with_other_windows(self, window, radius, overlap, scale):
        """A flat one throws half of the overlap away."""
        batch = batch_of(70, 61, scale)
        sr = tiled(blur(radius, scale), batch, 32, overlap, window)
        torch.testing.assert_close(sr, whole(blur(radius, scale), batch), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("window", ["gaussian", "flat"])
    @pytest.mark.parametrize("scale", [1.0, 2.7, 4.0])
    def test_a_constant_in_other_windows(self, window, scale):
        batch = batch_of(37, 53, scale, constant=0.3)
        assert (tiled(enlarge, batch, 16, 6, window) - 0.3).abs().max() < 1e-6

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

    def test_progress_is_logged_where_there_is_no_terminal(self, caplog, monkeypatch):
        monkeypatch.setattr("lightning_modules.sampling.tiling.SILENCE", 0)
        caplog.set_level("INFO", "lightning_modules")
        batch = batch_of(20, 100, 2)
        tiles = grid((20, 100), batch["size"], 40, 16)
        restore_tiled(enlarge, batch, tiles)
        assert not caplog.messages
        restore_tiled(enlarge, batch, tiles, bar=True)
        assert caplog.messages == [f"tiles: {n} of 4" for n in (1, 2, 3, 4)]

    def test_what_it_does_not_cover_shows_near_the_seams_only(self):
        batch = batch_of(70, 61)
        error = (tiled(blur(3), batch, 32, 4) - whole(blur(3), batch)).abs()
        assert error.max() > 1e-3  # the test before this one can fail
        assert error[..., :40, :40].max() < 1e-5  # of the first tile, far from its borders

    def test_blending_has_no_steps(self):
        """Tiles of differing brightness: a ramp between them, nowhere a step."""
        brightness = itertools.count()

        def restore(batch, noise):
            return torch.full((1, 3, *batch["size"]), float(next(brightness)))

        sr = tiled(restore, batch_of(20, 100, 2.0), 40, 16)[0, 0, 5]
        fade = 16 * 2 // 2  # the middle half of the overlap, in output pixels
        assert sr.diff().abs().max() <= 1 / fade + 1e-5
        assert sr[0] == 0
        assert sr[-1] == 3  # tiles begin at 0, 24, 48 and 60

    @pytest.mark.parametrize(("h", "w"), [(16, 16), (5, 16), (1, 1), (16, 3)])
    def test_images_of_one_tile(self, h, w):
        batch, calls = batch_of(h, w), []

        def restore(part, noise):
            calls.append(part["lr"].shape)
            return enlarge(part, noise)

        sr = tiled(restore, batch, 16, 4)
        assert calls == [batch["lr"].shape]
        assert torch.equal(sr, whole(enlarge, batch))

    @pytest.mark.parametrize(("h", "w"), [(17, 16), (16, 17), (3, 200), (200, 3), (33, 1)])
    def test_long_images(self, h, w):
        batch = batch_of(h, w)
        torch.testing.assert_close(tiled(enlarge, batch, 16, 4), whole(enlarge, batch))

    def test_several_images(self):
        batch = batch_of(40, 30, count=3)
        sr = tiled(blur(1), batch, 16, 8)
        for i in range(3):
            one = {**batch, "lr": batch["lr"][i : i + 1], "seed": batch["seed"][i : i + 1]}
            torch.testing.assert_close(sr[i : i + 1], tiled(blur(1), one, 16, 8))

    @pytest.mark.parametrize("scale", [1.5, 2.5, 3.2, 3.7])
    def test_fractional_scales_lie_where_the_whole_lies(self, scale):
        """Smooth enlargement: a shift by half a pixel would be 40 times what is allowed."""

        def bicubic(batch, noise):
            return resize(batch["lr"], batch["size"])

        y, x = torch.meshgrid(torch.linspace(0, 25, 150), torch.linspace(0, 20, 131), indexing="ij")
        lr = (0.5 + 0.4 * torch.sin(x) * torch.cos(y)).expand(1, 3, -1, -1)
        batch = {**batch_of(150, 131, scale), "lr": lr}
        error = tiled(bicubic, batch, 64, 16) - whole(bicubic, batch)
        shift = whole(bicubic, batch).diff(dim=-1).abs().max() / 2
        assert error.abs().max() < shift / 3

    @pytest.mark.parametrize("size", [(90, 262), (300, 61), (70, 400), (187, 61)])
    def test_sides_of_differing_factors(self, size):
        """As `data.init_args.size` asks for; one factor may be 1."""

        def bicubic(batch, noise):
            return resize(batch["lr"], batch["size"])

        y, x = torch.meshgrid(torch.linspace(0, 12, 70), torch.linspace(0, 10, 61), indexing="ij")
        lr = (0.5 + 0.4 * torch.sin(x) * torch.cos(y)).expand(1, 3, -1, -1)
        batch = {**batch_of(70, 61), "lr": lr, "size": size}
        sr, expected = tiled(bicubic, batch, 32, 16), whole(bicubic, batch)
        assert sr.shape == (1, 3, *size)
        shift = max(expected.diff(dim=dim).abs().max() for dim in (-1, -2)) / 2
        assert (sr - expected).abs().max() < shift / 3

    def test_memory_format_and_type(self):
        batch = batch_of(40, 30)
        batch["lr"] = batch["lr"].contiguous(memory_format=torch.channels_last)
        sr = tiled(lambda b, n: enlarge(b, n).bfloat16(), batch, 16, 8)
        assert sr.dtype == torch.float32


class TestTiles:
    def run(self, batch, tile, overlap):
        parts = []

        def restore(part, noise):
            parts.append((part, noise.normal(part["lr"].shape)))
            return enlarge(part, noise)

        tiled(restore, batch, tile, overlap)
        return parts

    def test_no_tile_is_larger_than_it_should_be(self):
        for scale in (2.0, 2.7):
            for part, _ in self.run(batch_of(100, 130, scale), 32, 8):
                assert max(part["lr"].shape[-2:]) <= 32 + (32 - 8) // 4

    def test_a_restorer_does_not_get_the_answer(self):
        batch = batch_of(40, 30)
        for part, _ in self.run({**batch, "hr": torch.rand(1, 3, *batch["size"])}, 16, 4):
            assert "hr" not in part

    def test_a_tile_of_another_size(self):
        with pytest.raises(ValueError, match=r"a tile became \(16, 1\), expected \(32, 32\)"):
            tiled(lambda batch, noise: batch["lr"][..., :1], batch_of(40, 40), 16, 4)

    def test_integer_scales_need_no_other_tiles(self):
        parts = self.run(batch_of(100, 130), 32, 8)
        assert {tuple(p["lr"].shape[-2:]) for p, _ in parts} == {(32, 32)}
        assert {p["size"] for p, _ in parts} == {(64, 64)}
        assert len(parts) == 4 * 6  # 24 pixels further each: 0 24 48 68, and 0 24 48 72 96 98

    def test_the_rest_of_the_batch_goes_along(self):
        batch = {**batch_of(40, 30), "text": ["sea"]}
        for part, _ in self.run(batch, 16, 4):
            assert part["key"] == ["0"]
            assert part["text"] == ["sea"]

    def test_noise_differs_from_tile_to_tile_and_image_to_image(self):
        parts = self.run(batch_of(50, 50, count=2), 16, 4)
        fields = [field[i].flatten() for _, field in parts for i in (0, 1)]
        assert len(fields) > 20
        for a, b in itertools.combinations(fields, 2):
            assert not torch.equal(a, b)

    @pytest.mark.parametrize("scale", [1.0, 2.0, 4.0])
    def test_an_overlap_is_as_noisy_as_the_rest(self, scale):
        """Two samples of noise would be averaged there, and fine detail lost."""

        def restore(batch, noise):
            return noise.normal((1, 3, *batch["size"]))

        batch = batch_of(90, 80, scale)
        sr = tiled(restore, batch, 32, 16)
        again = tiled(restore, batch, 48, 16)  # other tiles, and nearly the same field
        assert abs(sr.std() - 1) < 0.03
        torch.testing.assert_close(sr, again, rtol=0, atol=1e-5)

    def test_noise_is_the_same_in_any_batch_and_run(self):
        batch = batch_of(50, 50, count=2)
        one = {**batch, "lr": batch["lr"][1:], "seed": batch["seed"][1:], "key": ["1"]}
        both, alone = self.run(batch, 16, 4), self.run(one, 16, 4)
        for (_, two), (_, field) in zip(both, alone, strict=True):
            assert torch.equal(two[1:], field)

    @pytest.mark.parametrize("overlap", [16, 17, -1])
    def test_an_overlap_that_cannot_be(self, overlap):
        with pytest.raises(ValueError, match=rf"tiles of 16 pixels cannot overlap by {overlap}"):
            tiled(enlarge, batch_of(40, 40), 16, overlap)


class TestSpans:
    @given(
        st.integers(1, 400),
        st.floats(1, 8),
        st.integers(1, 64),
        st.sampled_from(["linear", "gaussian", "flat"]),
        st.data(),
    )
    @settings(max_examples=200, deadline=None)
    def test_cover_everything(self, side, scale, tile, window, data):
        overlap = data.draw(st.integers(0, tile - 1))
        out_side = round(side * scale)
        found = spans(side, out_side, tile, overlap, window)
        weight = torch.zeros(out_side)
        for span in found:
            assert 0 <= span.lr.start < span.lr.stop <= side
            assert span.lr.stop - span.lr.start <= tile + (tile - overlap) // 4
            assert len(span.window) == span.out.stop - span.out.start >= 1
            assert 0 <= span.window.min() <= span.window.max() <= 1
            weight[span.out] += span.window
        assert (weight - 1).abs().max() < 1e-6
        assert (found[0].lr.start, found[0].out.start) == (0, 0)
        assert (found[-1].lr.stop, found[-1].out.stop) == (side, out_side)
        for before, after in itertools.pairwise(found):
            assert before.lr.stop - after.lr.start >= overlap
            assert before.out.stop - after.out.start >= overlap * out_side // side
            assert after.lr.stop > before.lr.stop
        # No more tiles than it takes, where each goes on by at least half of what it could.
        assert len(found) <= 2 + 2 * side // (tile - overlap)

    @given(st.integers(1, 400), st.integers(1, 64), st.integers(1, 16), st.data())
    @settings(max_examples=100, deadline=None)
    def test_on_one_lattice(self, side, tile, multiple, data):
        rounded = tile + -tile % multiple
        overlap = data.draw(st.integers(0, rounded - multiple))
        found = spans(side, 4 * side, tile, overlap, multiple=multiple)
        assert [span.lr.start % multiple for span in found] == [0] * len(found)
        assert [span.lr.stop % multiple for span in found[:-1]] == [0] * (len(found) - 1)
        longest = max(span.lr.stop - span.lr.start for span in found)
        assert longest <= rounded + max(multiple - 1, 0) + (rounded - overlap) // 4
        for before, after in itertools.pairwise(found):
            assert before.lr.stop - after.lr.start >= overlap
            assert after.lr.start > before.lr.start

    @pytest.mark.parametrize("scale", [1.5, 2.5, 3.2, 3.75])
    def test_borders_meet_at_simple_fractions(self, scale):
        """Where LR and output borders meet in every few pixels, tiles begin and end there."""
        side = 240  # a multiple of what all of these scales need
        for span in spans(side, round(side * scale), 64, 16):
            assert span.lr.start * scale == span.out.start
            assert span.lr.stop * scale == span.out.stop

    def test_halves_are_rounded_one_way(self):
        """LR pixels 9 to 11, the overlap of two tiles, begin at 13.5 and end at 16.5."""
        found = spans(40, 60, tile=5, overlap=2)
        before, after = next(p for p in itertools.pairwise(found) if p[1].lr.start == 9)
        assert before.out.stop - after.out.start == 3

    def test_windows(self):
        """Two tiles of 16, which share 8: what is thrown away, and what is blended."""
        shared = slice(8, 16)
        found = {w: spans(24, 24, 16, 8, w)[0].window[shared] for w in ("linear", "flat")}
        expected = [1, 1, 7 / 8, 5 / 8, 3 / 8, 1 / 8, 0, 0]
        torch.testing.assert_close(found["linear"], torch.tensor(expected))
        assert found["flat"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]

    def test_a_gaussian_window_prefers_the_middle_of_a_tile(self):
        """Three tiles in one place, for the last one is moved back."""
        tiles = spans(40, 40, 32, 24, "gaussian")
        weights = torch.zeros(len(tiles), 40)
        for number, span in enumerate(tiles):
            weights[number, span.out] = span.window
        plain = torch.zeros(len(tiles), 40)
        for number, span in enumerate(spans(40, 40, 32, 24)):
            plain[number, span.out] = span.window
        assert weights[0, 16] > plain[0, 16]
        assert ((weights > 0) == (plain > 0)).all()


# ------------------------------------------------------------------------------ as InvSR's release


def opencv_kernel(taps, sigma):
    """``cv2.getGaussianKernel``: sampled at whole distances, summing to 1."""
    distance = np.arange(taps, dtype=np.float64) - (taps - 1) / 2
    kernel = np.exp(-(distance**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def released_weights(size):
    """An even size is the kernel of a tap more, without the first tap."""
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    return opencv_kernel(size + 1, sigma)[1:] if size % 2 == 0 else opencv_kernel(size, sigma)


def released_starts(length, patch, stride):
    """0, stride, ...; those that overrun are moved back, and what is double is left out."""
    if length <= patch:
        return [0]
    starts = [min(start, length - patch) for start in range(0, length, stride)]
    return list(dict.fromkeys(starts))


class TestReleased:
    def test_the_known_kernel(self):
        """512 output pixels of a tile of 128: sigma 77.15, the peak half a pixel off the middle."""
        weights = released_weights(512)
        assert weights.argmax() == 255
        assert weights[255 + 10] == weights[255 - 10]
        ratio = weights[255] / weights[255 + 100]
        assert ratio == pytest.approx(np.exp(100**2 / 2 / 77.15**2))

    @pytest.mark.parametrize("scale", [1, 4])
    @pytest.mark.parametrize(("patch", "stride"), [(128, 64), (128, 128), (125, 62), (96, 20)])
    @pytest.mark.parametrize("side", [128, 144, 192, 200, 256, 300, 400])
    def test_starts_and_weights(self, side, patch, stride, scale):
        found = spans(side, side * scale, patch, patch - stride, "released")
        starts = released_starts(side, patch, stride)
        assert [span.lr.start for span in found] == starts
        assert all(span.lr.stop - span.lr.start == patch for span in found)
        one, total = released_weights(patch * scale), np.zeros(side * scale)
        for start in starts:
            total[start * scale : (start + patch) * scale] += one
        for span, start in zip(found, starts, strict=True):
            place = slice(start * scale, (start + patch) * scale)
            assert span.out == place
            np.testing.assert_allclose(span.window, one / total[place], rtol=1e-5)

    def test_what_is_blended(self):
        """Each tile is a number of its own; the blend by hand, in two dimensions as released."""
        size, scale, patch, stride = (44, 60), 4, 16, 8
        made = []

        def numbered(batch, noise):
            generator = torch.Generator().manual_seed(len(made))
            found = torch.rand(1, 3, *batch["size"], generator=generator)
            made.append(found)
            return found

        batch = batch_of(*size, scale)
        found = tiled(numbered, batch, patch, patch - stride, "released")
        one = released_weights(patch * scale)
        weight = np.outer(one, one)
        total = np.zeros((3, *batch["size"]))
        count = np.zeros(batch["size"])
        tiles = iter(made)
        for top in released_starts(size[0], patch, stride):
            for left in released_starts(size[1], patch, stride):
                place = (
                    slice(top * scale, (top + patch) * scale),
                    slice(left * scale, (left + patch) * scale),
                )
                total[:, *place] += next(tiles)[0].double().numpy() * weight
                count[place] += weight
        assert next(tiles, None) is None
        np.testing.assert_allclose(found[0], total / count, rtol=0, atol=1e-6)
        other = tiled(enlarge, batch, patch, patch - stride, "released")
        torch.testing.assert_close(other, whole(enlarge, batch), rtol=0, atol=1e-6)

    def test_fractional_factors_are_refused(self):
        with pytest.raises(
            ValueError, match=r"needs whole factors, and a side of 40 becomes 60: se"
        ):
            spans(40, 60, 16, 8, "released")

    def test_tiles_of_latents_are_refused(self):
        with pytest.raises(ValueError, match=r"set tiling\.where to pixels, or another window"):
            Tiling(window="released", where="latent")
