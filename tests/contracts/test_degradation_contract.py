"""The contract can fail: each broken stage is caught by the intended test."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from degradations.base import Stage
from tests.contracts.degradation_contract import StageContract


class Plain(Stage):
    def draw(self, draws, shape):
        return {"u": draws.uniform()}

    def forward(self, x, params):
        return x * params["u"].view(-1, 1, 1, 1)


class SharedDraw(Plain):
    def draw(self, draws, shape):
        return {"u": np.repeat(draws.uniform()[:1], shape[0])}


class InPlace(Plain):
    def forward(self, x, params):
        return x.mul_(0.5)


class GlobalTorch(Plain):
    def forward(self, x, params):
        return x + torch.rand(())


CHECK = StageContract()


@pytest.mark.parametrize(
    ("stage", "check"),
    [
        (SharedDraw, CHECK.test_an_image_does_not_depend_on_its_batch),
        (InPlace, CHECK.test_forward_is_pure),
        (GlobalTorch, CHECK.test_no_global_generator_is_used),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_stage_is_caught(stage, check):
    with pytest.raises(AssertionError):
        check(stage())


class Darker(Plain):
    """Depends on the places of pixels."""

    def forward(self, x, params):
        return x * torch.linspace(1, 0, x.shape[-1], device=x.device)


class SaysPixelwise(Darker):
    pixelwise = True


class OwnCanvas(Darker):
    def on_canvas(self, canvas, params):
        return canvas.with_pixels(self(canvas.pixels, params))


@pytest.mark.parametrize(
    ("stage", "fix"),
    [
        (SaysPixelwise, r"SaysPixelwise is pixelwise, .*: remove `pixelwise = True`"),
        (OwnCanvas, r"on_canvas of OwnCanvas makes another image than forward: change it, or"),
    ],
)
def test_what_a_canvas_breaks_is_told_with_its_fix(stage, fix):
    with pytest.raises(AssertionError, match=fix):
        CHECK.test_images_of_differing_sizes_on_a_canvas(stage())
    CHECK.test_images_of_differing_sizes_on_a_canvas(Darker())
