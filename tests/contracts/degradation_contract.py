"""The contracts of Stage and Degradation, as test classes for your own classes, too.

The classes of this repository and of `pytest tests/contracts --plugin my_sr.degradations` are found
by test_degradations.py. A class that requires arguments needs a test file of yours (run it with the
repository on PYTHONPATH):

    from tests.contracts.degradation_contract import StageContract

    class TestBanding(StageContract):
        @pytest.fixture
        def stage(self):
            return Banding(levels=8)
"""

from __future__ import annotations

import inspect
import json
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from degradations.base import Canvas, Degradation, Stage
from degradations.draws import Draws, Params, split_params, to_device
from degradations.stages.noise import hashed_fields
from tests.contracts import discovery
from tests.make import make_images

SEEDS = torch.arange(16) * 7919 + 5
SIZES = [(32, 32), (37, 53), (48, 17)]
CPU = torch.device("cpu")


def build(cls: type, *arguments: Any) -> Any:
    """Make an instance of a found class, or fail and explain how to test it."""
    return discovery.made(cls, f"test it as the docstring of {__name__} shows", *arguments)


def as_json_and_back(params: Params) -> Params:
    """Convert arrays to JSON and back, like a recorder."""
    text = json.dumps(params, default=np.ndarray.tolist)

    def arrays(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: arrays(part) for name, part in value.items()}
        return np.asarray(value) if isinstance(value, list) else value

    return arrays(json.loads(text))


def flat(params: Params, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, dict):
            yield from flat(value, f"{path}{name}.")
        else:
            yield path + name, value


def assert_bit_equal(got: Params, expected: Params, images: slice = slice(None)) -> None:
    """Assert equal parameters; only `images` of the arrays of `expected` are compared."""
    got_flat = dict(flat(got))
    expected_flat = dict(flat(expected))
    assert got_flat.keys() == expected_flat.keys()
    for path, value in expected_flat.items():
        part = value[images] if isinstance(value, np.ndarray) else value
        np.testing.assert_array_equal(got_flat[path], part, err_msg=path)


@contextmanager
def global_generators_untouched() -> Iterator[None]:
    """Fail if the block draws from, or seeds, a global generator."""

    def states() -> tuple[Any, ...]:
        key, position = np.random.get_state()[1:3]
        return random.getstate(), (key.tolist(), position), torch.get_rng_state().tolist()

    before = states()
    yield
    for name, old, new in zip(("random", "numpy.random", "torch"), before, states(), strict=True):
        assert old == new, f"the global generator of {name} was used: draw from `draws` only"


def each(stage: Stage, x: Tensor, params: Params) -> list[Tensor]:
    """Apply `forward` to each image alone."""
    own = split_params(stage.prepare(params), len(x))
    return [stage(image, part) for image, part in zip(x.split(1), own, strict=True)]


def padded(images: list[Tensor]) -> Tensor:
    """Pad images of differing sizes with 0 to one tensor."""
    height = max(image.shape[-2] for image in images)
    width = max(image.shape[-1] for image in images)
    result = images[0].new_zeros(len(images), images[0].shape[1], height, width)
    for canvas, image in zip(result, images, strict=True):
        canvas[:, : image.shape[-2], : image.shape[-1]] = image[0]
    return result


def same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


def check_images(canvas: Canvas, expected: list[Tensor]) -> None:
    """Check the images on a canvas.

    They must be equal to 1e-4. A stage that rounds to 8 bits may be one level off in 1 of 1000
    values, if inputs of the rounding differ in the last bit.

    Args:
        canvas: The canvas.
        expected: The images, (1, C, h, w) each.
    """
    assert canvas.pixels.dtype == torch.float32
    assert canvas.pixels.isfinite().all()
    assert canvas.sizes.tolist() == [list(image.shape[-2:]) for image in expected]
    off = total = 0
    for pixels, image in zip(canvas.pixels, expected, strict=True):
        h, w = image.shape[-2:]
        difference = (pixels[:, :h, :w] - image[0]).abs()
        assert difference.max() <= 1.02 / 255, f"an image is {difference.max():.2g} off"
        off += int((difference > 1e-4).sum())
        total += difference.numel()
    assert off <= 1e-3 * total, f"{off} of {total} values are off by more than 1e-4"


HOSTILE = {
    "black": torch.zeros(2, 3, 24, 24),
    "white": torch.ones(2, 3, 24, 24),
    "grey": torch.full((2, 3, 24, 24), 0.3),
    "one pixel wide": make_images(2, (24, 1)),
    "one pixel": make_images(2, (1, 1)),
    "two pixels wide": make_images(2, (24, 2)),  # whose LR is one pixel wide
    "four pixels": make_images(2, (2, 2)),
}


class StageContract:
    """Subclass this and override the fixture `stage`."""

    @pytest.fixture
    def stage(self) -> Stage:
        raise NotImplementedError("override the fixture `stage`")

    @staticmethod
    def draw(stage: Stage, seeds: Tensor, size: tuple[int, int]) -> Params:
        return stage.draw(Draws(seeds), torch.Size((len(seeds), 3, *size)))

    @staticmethod
    def apply(stage: Stage, x: Tensor, params: Params) -> Tensor:
        """Apply `forward`; images of differing output sizes are padded with 0."""
        there = to_device(params, len(x), x.device)
        if not stage.resizes:
            return stage(x, there)
        return padded(each(stage, x, there))

    def run(self, stage: Stage, x: Tensor, seeds: Tensor = SEEDS) -> Tensor:
        return self.apply(stage, x, self.draw(stage, seeds[: len(x)], tuple(x.shape[-2:])))

    def test_has_no_scale(self, stage):
        assert "scale" not in inspect.signature(type(stage)).parameters

    def test_shape_dtype_and_values(self, stage):
        for size in SIZES:
            y = self.run(stage, make_images(3, size))
            assert y.dtype == torch.float32
            assert y.ndim == 4
            assert len(y) == 3
            assert y.isfinite().all(), f"of {size}"

    def test_hostile_images_give_finite_ones(self, stage):
        for name, x in HOSTILE.items():
            y = self.run(stage, x)
            assert len(y) == len(x), name
            assert y.isfinite().all(), name

    def test_an_image_does_not_depend_on_its_batch(self, stage):
        x = make_images(16, (32, 32))
        whole_params = self.draw(stage, SEEDS, (32, 32))
        whole = self.run(stage, x)
        for start in range(0, 16, 3):  # the last one is alone
            part = slice(start, start + 3)
            params = self.draw(stage, SEEDS[part], (32, 32))
            assert_bit_equal(params, whole_params, part)
            y = self.apply(stage, x[part], params)
            h, w = y.shape[-2:]  # images of differing sizes are padded to the largest of a batch
            torch.testing.assert_close(y, whole[part, :, :h, :w], rtol=0, atol=1e-5)
            assert not whole[part, :, h:].any()
            assert not whole[part, :, :, w:].any()

    def test_forward_is_pure(self, stage):
        x = make_images(3, (32, 32))
        if stage.resizes:
            x = x[:1]
        params = to_device(self.draw(stage, SEEDS[: len(x)], (32, 32)), len(x), CPU)
        x_before = x.clone()
        params_before = {
            path: value.clone() for path, value in flat(params) if isinstance(value, Tensor)
        }
        first = stage(x, params)
        assert torch.equal(stage(x, params), first)
        assert torch.equal(x, x_before), "forward changed its input in place"
        for path, value in flat(params):
            if isinstance(value, Tensor):
                assert torch.equal(value, params_before[path]), f"forward changed {path}"

    def test_no_global_generator_is_used(self, stage):
        with global_generators_untouched():
            self.run(stage, make_images(3, (32, 32)))

    def test_params_survive_json(self, stage):
        x = make_images(3, (32, 32))
        params = self.draw(stage, SEEDS[:3], (32, 32))
        expected = self.apply(stage, x, params)
        recorded = as_json_and_back(params)
        assert_bit_equal(recorded, params)
        self.draw(stage, SEEDS[3:6], (32, 32))  # the object must not keep draws
        assert torch.equal(self.apply(stage, x, recorded), expected)

    def test_memory_format_does_not_matter(self, stage):
        x = make_images(3, (32, 32))
        y = self.run(stage, x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(y, self.run(stage, x), rtol=0, atol=1e-5)

    def test_pickles(self, stage):
        x = make_images(2, (32, 32))
        assert torch.equal(self.run(pickle.loads(pickle.dumps(stage)), x), self.run(stage, x))

    def test_prepare_keeps_the_drawn_parameters_and_is_idempotent(self, stage):
        params = to_device(self.draw(stage, SEEDS[:3], (32, 32)), 3, CPU)
        once = dict(flat(stage.prepare(params)))
        twice = dict(flat(stage.prepare(stage.prepare(params))))
        assert once.keys() == twice.keys()
        for path, value in flat(params):
            assert same(once[path], value), f"prepare changed {path}"
        for path, value in once.items():
            assert same(twice[path], value), f"the second prepare changed {path}"

    def test_a_canvas_gives_what_forward_gives(self, stage):
        """Images fill their canvas; the first size is common for training crops."""
        for size in SIZES:
            x = make_images(4, size)
            with hashed_fields():
                params = stage.prepare(to_device(self.draw(stage, SEEDS[:4], size), 4, CPU))
                canvas = stage.on_canvas(Canvas.of(x), params)
                expected = each(stage, x, params)
            assert canvas.sizes.dtype == torch.int64
            check_images(canvas, expected)

    def test_images_of_differing_sizes_on_a_canvas(self, stage):
        """Each image as by `forward` alone, as on a GPU after a stage that resizes."""
        sizes = [(40, 48), (33, 27), (17, 48), (40, 21)]
        alone = [make_images(1, size) for size in sizes]
        pixels = make_images(4, (40, 48))  # pixels outside an image must not matter
        for image, x in zip(pixels, alone, strict=True):
            image[:, : x.shape[-2], : x.shape[-1]] = x[0]
        canvas = Canvas(pixels, torch.tensor(sizes), (40, 48))
        with hashed_fields():
            params = stage.prepare(to_device(self.draw(stage, SEEDS[:4], (40, 48)), 4, CPU))
            got = stage.on_canvas(canvas, params)
            own = split_params(params, 4)
            expected = [stage(x, part) for x, part in zip(alone, own, strict=True)]
        fix = "on_canvas makes another image than forward: change it, or remove it"
        if stage.pixelwise:
            fix = "its pixels depend on more than themselves: remove `pixelwise = True`"
        try:
            check_images(got, expected)
        except AssertionError as error:
            name = type(stage).__name__
            message = f"{name}: {fix}, and images go through forward one by one ({error})"
            raise AssertionError(message) from error

    @pytest.mark.gpu
    def test_runs_on_cuda_with_the_same_params(self, stage):
        x = make_images(3, (32, 32))
        drawn = self.draw(stage, SEEDS[:3], (32, 32))
        with hashed_fields():
            expected = each(stage, x, stage.prepare(to_device(drawn, 3, CPU)))
        params = stage.prepare(to_device(drawn, 3, torch.device("cuda")))
        there = Canvas.of(x.cuda())
        torch.cuda.set_sync_debug_mode("default" if stage.waits else "error")
        try:
            canvas = stage.on_canvas(there, params)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        check_images(Canvas(*(part.cpu() for part in canvas[:2]), canvas.hr_size), expected)


class DegradationContract:
    """Subclass this and override the fixture `make`, a function from scale to degradation."""

    @pytest.fixture
    def make(self) -> Callable[[Any], Degradation]:
        raise NotImplementedError("override the fixture `make`")

    @pytest.fixture
    def degradation(self, make) -> Degradation:
        return make(2.0)

    @pytest.mark.parametrize(
        ("scale", "size"), [(1.0, SIZES[1]), (2.0, SIZES[2]), (3.0, SIZES[0]), (3.7, SIZES[1])]
    )
    def test_shape_dtype_and_range(self, make, scale, size):
        degradation = make(scale)
        lr = degradation(make_images(3, size), SEEDS[:3])
        assert lr.shape == (3, 3, round(size[0] / scale), round(size[1] / scale))
        assert lr.shape[-2:] == degradation.lr_size(size)
        assert lr.dtype == torch.float32
        assert lr.min() >= 0
        assert lr.max() <= 1

    def test_hostile_images_give_images(self, degradation):
        for name in ("black", "white", "two pixels wide", "four pixels"):
            lr = degradation(HOSTILE[name], SEEDS[:2])
            assert lr.min() >= 0, name  # NaN fails both
            assert lr.max() <= 1, name

    def test_an_image_does_not_depend_on_its_batch(self, degradation):
        hr = make_images(16, (32, 32))
        whole_params = degradation.params_of(SEEDS, hr.shape)
        whole = degradation(hr, SEEDS)
        for start in range(0, 16, 3):  # the last one is alone
            part = slice(start, start + 3)
            params = degradation.params_of(SEEDS[part], hr[part].shape)
            assert_bit_equal(params, whole_params, part)
            lr = degradation(hr[part], SEEDS[part])
            torch.testing.assert_close(lr, whole[part], rtol=0, atol=1e-5)

    def test_hr_and_global_generators_are_left_alone(self, degradation):
        hr = make_images(3, (32, 32))
        with global_generators_untouched():
            degradation(hr, SEEDS[:3])
        assert torch.equal(hr, make_images(3, (32, 32)))

    def test_recorded_params_replay(self, degradation):
        hr = make_images(3, (32, 32))
        expected = degradation(hr, SEEDS[:3])
        recorded = as_json_and_back(degradation.params_of(SEEDS[:3], hr.shape))
        degradation.params_of(SEEDS[3:6], hr.shape)  # the object must not keep draws
        assert torch.equal(degradation.replay(hr, recorded), expected)

    def test_autocast_changes_nothing(self, degradation):
        hr = make_images(3, (32, 32))
        with torch.autocast("cpu", torch.bfloat16):
            lr = degradation(hr, SEEDS[:3])
        assert torch.equal(lr, degradation(hr, SEEDS[:3]))

    def test_pickles(self, degradation):
        hr = make_images(2, (32, 32))
        copy = pickle.loads(pickle.dumps(degradation))
        assert torch.equal(copy(hr, SEEDS[:2]), degradation(hr, SEEDS[:2]))

    def test_refuses_a_scale_that_is_no_positive_number(self, make):
        for scale in (None, 0.0, -2.0, float("nan"), float("inf"), "4"):
            with pytest.raises(ValueError, match=r"scale is .*data\.init_args\.scale"):
                make(scale)

    def test_at_another_scale_it_is_that_of_the_scale(self, make):
        degradation = make(2.0)
        hr = make_images(2, (32, 32))
        assert degradation.at(2.0) is degradation
        if not degradation.any_scale:
            with pytest.raises(ValueError, match=r"supports only its own scale 2, not 3:"):
                degradation.at(3.0)
            return
        expected = make(2.0)(hr, SEEDS[:2])
        other = degradation.at(3.0)
        assert other is degradation.at(3.0)  # checked on its first batch, not on each
        assert torch.equal(other(hr, SEEDS[:2]), make(3.0)(hr, SEEDS[:2]))
        assert torch.equal(other.at(2.0)(hr, SEEDS[:2]), expected)
        assert torch.equal(degradation(hr, SEEDS[:2]), expected)

    @pytest.mark.gpu
    @torch.no_grad()  # compiled by default in training alone, which takes a minute
    def test_runs_on_cuda_with_the_same_params(self, degradation):
        hr = make_images(3, (32, 32))
        lr = degradation(hr.cuda(), SEEDS[:3])
        assert lr.is_cuda
        params = degradation.params_of(SEEDS[:3], hr.shape)
        assert torch.equal(lr, degradation.replay(hr.cuda(), params))
