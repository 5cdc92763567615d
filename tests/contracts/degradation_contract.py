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
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.utils import _pytree

from degradations.base import Canvas
from degradations.draws import Draws, split_params, to_device
from degradations.stages.noise import hashed_fields
from tests.contracts import discovery
from tests.make import assert_near, make_images

SEEDS = torch.arange(16) * 7919 + 5
SIZES = [(32, 32), (37, 53), (48, 17)]
CPU = torch.device("cpu")
HOSTILE = {
    "black": torch.zeros(2, 3, 24, 24),
    "white": torch.ones(2, 3, 24, 24),
    "grey": torch.full((2, 3, 24, 24), 0.3),
    "one pixel wide": make_images(2, (24, 1)),
    "one pixel": make_images(2, (1, 1)),
    "two pixels wide": make_images(2, (24, 2)),  # whose LR is one pixel wide
    "four pixels": make_images(2, (2, 2)),
}


def build(cls, *arguments):
    """Make an instance of a found class, or fail and explain how to test it."""
    return discovery.made(cls, f"test it as the docstring of {__name__} shows", *arguments)


# ------------------------------------------------------------------------------------- parameters


def as_json_and_back(params):
    """Convert arrays to JSON and back, as if they were recorded."""

    def arrays(value):
        if isinstance(value, dict):
            return {name: arrays(part) for name, part in value.items()}
        return np.asarray(value) if isinstance(value, list) else value

    text = json.dumps(params, default=np.ndarray.tolist)
    return arrays(json.loads(text))


def of_images(params, images):
    """The parameters of some images of a batch."""

    def cut(value):
        return value[images] if isinstance(value, np.ndarray) else value

    return _pytree.tree_map(cut, params)


def as_arrays(params):
    """A copy with an array for each tensor."""

    def array(value):
        return value.numpy().copy() if isinstance(value, torch.Tensor) else value

    return _pytree.tree_map(array, params)


def with_names_of(drawn, params):
    """Those of `params` that have a name in `drawn`."""
    if not isinstance(drawn, dict):
        return params
    return {name: with_names_of(value, params[name]) for name, value in drawn.items()}


@contextmanager
def global_generators_untouched():
    """Fail if the block draws from, or seeds, a global generator."""

    def states():
        key, position = np.random.get_state()[1:3]
        return {
            "random": random.getstate(),
            "numpy.random": (key.tolist(), position),
            "torch": torch.get_rng_state().tolist(),
        }

    before = states()
    yield
    for name, state in states().items():
        assert state == before[name], f"{name}'s global generator was used: draw from `draws` only"


# ----------------------------------------------------------------------------------------- images


def each(stage, x, params):
    """Apply `forward` to each image alone."""
    of_each = split_params(stage.prepare(params), len(x))
    return [stage(image, part) for image, part in zip(x.split(1), of_each, strict=True)]


def padded(images):
    """Pad images of differing sizes with 0 to one tensor."""
    height = max(image.shape[-2] for image in images)
    width = max(image.shape[-1] for image in images)
    result = images[0].new_zeros(len(images), images[0].shape[1], height, width)
    for canvas, image in zip(result, images, strict=True):
        canvas[:, : image.shape[-2], : image.shape[-1]] = image[0]
    return result


def check_images(canvas, expected, advice=""):
    """Check the images on a canvas.

    They must be equal to 1e-4. A stage that rounds to 8 bits may be one level off in 1 of 1000
    values, if inputs of the rounding differ in the last bit.

    Args:
        canvas: The canvas.
        expected: The images, (1, C, h, w) each.
        advice: The end of messages.
    """
    assert canvas.pixels.dtype == torch.float32
    assert canvas.pixels.isfinite().all(), f"a number is not finite{advice}"
    assert canvas.sizes.tolist() == [list(image.shape[-2:]) for image in expected], advice
    differences = []
    for pixels, image in zip(canvas.pixels, expected, strict=True):
        h, w = image.shape[-2:]
        differences.append((pixels[:, :h, :w] - image[0]).abs().flatten())
    difference = torch.cat(differences)
    assert difference.max() <= 1.02 / 255, f"an image is {difference.max():.2g} off{advice}"
    off = (difference > 1e-4).float().mean()
    assert off <= 1e-3, f"{off:.2%} of the values are off by more than 1e-4{advice}"


# ---------------------------------------------------------------------------------- the contracts


class StageContract:
    """Subclass this and override the fixture `stage`."""

    @pytest.fixture
    def stage(self):
        raise NotImplementedError("override the fixture `stage`")

    @staticmethod
    def draw(stage, seeds, size):
        return stage.draw(Draws(seeds), torch.Size((len(seeds), 3, *size)))

    @staticmethod
    def apply(stage, x, params):
        """Apply `forward`; images of differing output sizes are padded with 0."""
        there = to_device(params, len(x), x.device)
        if not stage.resizes:
            return stage(x, there)
        return padded(each(stage, x, there))

    def run(self, stage, x):
        size = tuple(x.shape[-2:])
        return self.apply(stage, x, self.draw(stage, SEEDS[: len(x)], size))

    def test_a_stage_takes_no_scale(self, stage):
        """Only the degradation knows it; one given to a stage could contradict it."""
        assert "scale" not in inspect.signature(type(stage)).parameters

    def test_any_image_becomes_a_finite_one(self, stage):
        images = {str(size): make_images(3, size) for size in SIZES}
        for name, x in (images | HOSTILE).items():
            y = self.run(stage, x)

            assert y.dtype == torch.float32, name
            assert y.ndim == 4, name
            assert len(y) == len(x), name
            assert y.isfinite().all(), name

    def test_an_image_does_not_depend_on_its_batch(self, stage):
        """Else training data would change with the batch size or the number of processes.

        Where images come out with differing sizes, those of a batch are padded with 0.
        """
        x = make_images(16, (32, 32))
        all_params = self.draw(stage, SEEDS, (32, 32))
        together = self.run(stage, x)

        for start in range(0, 16, 3):  # the last one is alone
            images = slice(start, start + 3)
            params = self.draw(stage, SEEDS[images], (32, 32))
            y = self.apply(stage, x[images], params)

            np.testing.assert_equal(params, of_images(all_params, images))
            h, w = y.shape[-2:]
            assert_near(y, together[images, :, :h, :w], 1e-5)
            assert not together[images, :, h:].any()
            assert not together[images, :, :, w:].any()

    def test_forward_gives_the_same_again_and_changes_no_argument(self, stage):
        count = 1 if stage.resizes else 3  # a stage that resizes gets one image at a time
        x = make_images(count, (32, 32))
        params = to_device(self.draw(stage, SEEDS[:count], (32, 32)), count, CPU)
        x_before = x.clone()
        params_before = as_arrays(params)

        y = stage(x, params)

        assert torch.equal(stage(x, params), y)
        assert torch.equal(x, x_before), "forward changed its input in place"
        np.testing.assert_equal(as_arrays(params), params_before)

    def test_no_global_generator_is_used(self, stage):
        with global_generators_untouched():
            self.run(stage, make_images(3, (32, 32)))

    def test_recorded_params_and_a_pickled_copy_give_the_same_image(self, stage):
        """Params are recorded as JSON, to replay a degradation; workers of a loader get copies."""
        x = make_images(3, (32, 32))
        params = self.draw(stage, SEEDS[:3], (32, 32))
        expected = self.apply(stage, x, params)

        recorded = as_json_and_back(params)
        self.draw(stage, SEEDS[3:6], (32, 32))  # the object must not keep draws
        copy = pickle.loads(pickle.dumps(stage))

        np.testing.assert_equal(recorded, params)
        assert torch.equal(self.apply(stage, x, recorded), expected)
        assert torch.equal(self.run(copy, x), expected)

    def test_memory_format_does_not_matter(self, stage):
        x = make_images(3, (32, 32))
        y = self.run(stage, x.contiguous(memory_format=torch.channels_last))
        assert_near(y, self.run(stage, x), 1e-5)

    def test_prepare_keeps_the_drawn_parameters_and_is_idempotent(self, stage):
        """It adds what `forward` needs, such as a blur's kernels; `forward` may call it again."""
        params = to_device(self.draw(stage, SEEDS[:3], (32, 32)), 3, CPU)

        once = stage.prepare(params)
        twice = stage.prepare(stage.prepare(params))

        np.testing.assert_equal(as_arrays(twice), as_arrays(once))
        kept = with_names_of(params, once)
        np.testing.assert_equal(as_arrays(kept), as_arrays(params))

    def test_images_that_fill_a_canvas_come_out_as_from_forward(self, stage):
        """On a GPU `on_canvas` takes the place of `forward`: both must make the same LR."""
        for size in SIZES:
            x = make_images(4, size)
            with hashed_fields():
                params = stage.prepare(to_device(self.draw(stage, SEEDS[:4], size), 4, CPU))
                canvas = stage.on_canvas(Canvas.of(x), params)
                expected = each(stage, x, params)
            assert canvas.sizes.dtype == torch.int64
            check_images(canvas, expected)

    def test_images_of_differing_sizes_on_a_canvas_come_out_as_from_forward(self, stage):
        """After a stage that resizes, each lies in the upper left corner of a tensor for all."""
        sizes = [(40, 48), (33, 27), (17, 48), (40, 21)]
        images = [make_images(1, size) for size in sizes]
        pixels = make_images(4, (40, 48))  # pixels outside an image must not matter
        for place, image in zip(pixels, images, strict=True):
            place[:, : image.shape[-2], : image.shape[-1]] = image[0]

        with hashed_fields():
            params = stage.prepare(to_device(self.draw(stage, SEEDS[:4], (40, 48)), 4, CPU))
            canvas = stage.on_canvas(Canvas(pixels, torch.tensor(sizes), (40, 48)), params)
            of_each = split_params(params, 4)
            expected = [stage(x, part) for x, part in zip(images, of_each, strict=True)]

        advice = "on_canvas makes another image than forward: change it, or remove it"
        if stage.pixelwise:
            advice = "its pixels depend on more than themselves: remove `pixelwise = True`"
        check_images(canvas, expected, f"; {advice}: then images go through forward one by one")

    @pytest.mark.gpu
    def test_on_a_gpu_it_gives_the_images_of_a_cpu_and_does_not_wait_for_the_gpu(self, stage):
        """A stage whose `waits` is true may wait."""
        x = make_images(3, (32, 32))
        drawn = self.draw(stage, SEEDS[:3], (32, 32))
        with hashed_fields():
            expected = each(stage, x, stage.prepare(to_device(drawn, 3, CPU)))
        params = stage.prepare(to_device(drawn, 3, torch.device("cuda")))
        there = Canvas.of(x.cuda())

        # "error": torch raises where the host waits for the GPU.
        torch.cuda.set_sync_debug_mode("default" if stage.waits else "error")
        try:
            canvas = stage.on_canvas(there, params)
        finally:
            torch.cuda.set_sync_debug_mode("default")

        check_images(Canvas(canvas.pixels.cpu(), canvas.sizes.cpu(), canvas.hr_size), expected)


class DegradationContract:
    """Subclass this and override the fixture `make`, a function from scale to degradation."""

    @pytest.fixture
    def make(self):
        raise NotImplementedError("override the fixture `make`")

    @pytest.fixture
    def degradation(self, make):
        return make(2.0)

    @pytest.mark.parametrize(
        ("scale", "size"), [(1.0, (37, 53)), (2.0, (48, 17)), (3.0, (32, 32)), (3.7, (37, 53))]
    )
    def test_the_lr_is_smaller_by_the_scale_and_of_float32_from_0_to_1(self, make, scale, size):
        degradation = make(scale)
        lr = degradation(make_images(3, size), SEEDS[:3])
        assert lr.shape == (3, 3, round(size[0] / scale), round(size[1] / scale))
        assert lr.shape[-2:] == degradation.lr_size(size)
        assert lr.dtype == torch.float32
        assert lr.min() >= 0
        assert lr.max() <= 1

    @pytest.mark.parametrize("name", ["black", "white", "two pixels wide", "four pixels"])
    def test_the_lr_of_extreme_images_lies_in_0_to_1(self, degradation, name):
        lr = degradation(HOSTILE[name], SEEDS[:2])
        assert lr.min() >= 0  # NaN fails both
        assert lr.max() <= 1

    def test_an_image_does_not_depend_on_its_batch(self, degradation):
        hr = make_images(16, (32, 32))
        all_params = degradation.params_of(SEEDS, hr.shape)
        together = degradation(hr, SEEDS)

        for start in range(0, 16, 3):  # the last one is alone
            images = slice(start, start + 3)
            params = degradation.params_of(SEEDS[images], hr[images].shape)
            np.testing.assert_equal(params, of_images(all_params, images))
            assert_near(degradation(hr[images], SEEDS[images]), together[images], 1e-5)

    def test_hr_and_global_generators_are_left_alone(self, degradation):
        hr = make_images(3, (32, 32))
        with global_generators_untouched():
            degradation(hr, SEEDS[:3])
        assert torch.equal(hr, make_images(3, (32, 32)))

    def test_autocast_does_not_change_the_lr(self, degradation):
        """Else a training in bfloat16 would have other data than one in float32."""
        hr = make_images(3, (32, 32))
        lr = degradation(hr, SEEDS[:3])
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(degradation(hr, SEEDS[:3]), lr)

    def test_recorded_params_and_a_pickled_copy_give_the_same_lr(self, degradation):
        """Params are recorded as JSON, to replay a degradation; workers of a loader get copies."""
        hr = make_images(3, (32, 32))
        expected = degradation(hr, SEEDS[:3])

        recorded = as_json_and_back(degradation.params_of(SEEDS[:3], hr.shape))
        degradation.params_of(SEEDS[3:6], hr.shape)  # the object must not keep draws
        copy = pickle.loads(pickle.dumps(degradation))

        assert torch.equal(degradation.replay(hr, recorded), expected)
        assert torch.equal(copy(hr, SEEDS[:3]), expected)

    def test_refuses_a_scale_that_is_no_positive_number(self, make):
        for scale in (None, 0.0, -2.0, float("nan"), float("inf"), "4"):
            with pytest.raises(ValueError, match=r"scale is .*data\.init_args\.scale"):
                make(scale)

    def test_a_recipe_of_one_scale_refuses_another(self, degradation):
        if degradation.any_scale:
            pytest.skip("it supports any scale")
        assert degradation.at(2.0) is degradation  # made for scale 2
        with pytest.raises(ValueError, match=r"supports only its own scale 2, not 3:"):
            degradation.at(3.0)

    def test_at_gives_the_lr_of_a_recipe_made_for_that_scale(self, make, degradation):
        """A method for several scales needs LR of each; the recipe, made for 2, stays as it was."""
        if not degradation.any_scale:
            pytest.skip("it supports only its own scale")
        hr = make_images(2, (32, 32))
        lr_of_2 = make(2.0)(hr, SEEDS[:2])
        lr_of_3 = make(3.0)(hr, SEEDS[:2])

        at_3 = degradation.at(3.0)

        assert at_3 is degradation.at(3.0)  # kept: each new one checks its first batch
        assert torch.equal(at_3(hr, SEEDS[:2]), lr_of_3)
        assert torch.equal(at_3.at(2.0)(hr, SEEDS[:2]), lr_of_2)
        assert torch.equal(degradation(hr, SEEDS[:2]), lr_of_2)

    @pytest.mark.gpu
    @torch.no_grad()  # compiled by default in training alone, which takes a minute
    def test_runs_on_cuda_with_the_same_params(self, degradation):
        hr = make_images(3, (32, 32))
        lr = degradation(hr.cuda(), SEEDS[:3])
        assert lr.is_cuda
        params = degradation.params_of(SEEDS[:3], hr.shape)
        assert torch.equal(lr, degradation.replay(hr.cuda(), params))
