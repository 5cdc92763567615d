"""Stages of stages: selection and order, by both executors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from degradations.base import Canvas, Stage
from degradations.compose import OneOf, Shuffled, Sometimes
from degradations.draws import Draws, split_params, to_device

N = 4000
X = torch.rand(16, 3, 8, 6, generator=torch.Generator().manual_seed(0))
SHAPE = torch.Size((N, 3, 8, 6))


class Add(Stage):
    """Add a drawn number, and a fixed one."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = value

    def draw(self, draws, shape):
        return {"drawn": draws.uniform()}

    def forward(self, x, params):
        return x + self.value + params["drawn"].view(-1, 1, 1, 1)


class Double(Stage):
    """Multiply by two."""

    def draw(self, draws, shape):
        return {}

    def forward(self, x, params):
        return x * 2


class Square(Double):
    """Square."""

    def forward(self, x, params):
        return x * x


def draw(stage, count=N, first=0):
    return stage.draw(Draws(np.arange(first, first + count)), torch.Size((count, *SHAPE[1:])))


def results(stage, x=X):
    """Return the results of a whole batch, image by image, and on a canvas, and the parameters."""
    drawn = draw(stage, len(x))
    params = stage.prepare(to_device(drawn, len(x), torch.device("cpu")))
    own = split_params(params, len(x))
    each = [stage(image, part) for image, part in zip(x.split(1), own, strict=True)]
    return drawn, each, stage.on_canvas(Canvas.of(x), params), params


def check_executors(stage):
    drawn, each, canvas, params = results(stage)
    for image, pixels, size in zip(each, canvas.pixels, canvas.sizes.tolist(), strict=True):
        assert list(image.shape[-2:]) == size
        assert torch.equal(image[0], pixels[:, : size[0], : size[1]])
    assert torch.equal(stage(X, params), torch.cat(each))
    return drawn, each


# ------------------------------------------------------------------------------------- sometimes


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_sometimes(p):
    drawn, each = check_executors(Sometimes(Square(), p))
    for applied, x, y in zip(drawn["applied"], X.split(1), each, strict=True):
        assert torch.equal(y, x * x if applied else x)


# ----------------------------------------------------------------------------------------- one of


def test_one_of():
    drawn, each = check_executors(OneOf([Double(), Square(), Add(5.0)], (0.2, 0.3, 0.5)))
    for n, (which, x) in enumerate(zip(drawn["which"], X.split(1), strict=True)):
        own = np.float32(drawn["Add"]["drawn"][n]).item()
        expected = (x * 2, x * x, x + 5.0 + own)[which]
        torch.testing.assert_close(each[n], expected, rtol=0, atol=1e-6)
    assert set(drawn["which"]) == {0, 1, 2}


@pytest.mark.parametrize("p", [(0.5,), (0.5, 0.6), (-0.5, 1.5), (float("nan"), 1.0), ()])
def test_one_of_refuses_what_are_no_probabilities(p):
    with pytest.raises(ValueError, match="expected 2, none negative, with sum 1"):
        OneOf([Double(), Square()], p)


# --------------------------------------------------------------------------------------- shuffled


def test_shuffled():
    stages = {"twice": Double(), "square": Square(), "add": Add(5.0)}
    drawn, each = check_executors(Shuffled(stages))
    for n, (order, x) in enumerate(zip(drawn["order"], X.split(1), strict=True)):
        own = np.float32(drawn["add"]["drawn"][n]).item()
        y = x
        for number in order:
            y = (y * 2, y * y, y + 5.0 + own)[number]
        torch.testing.assert_close(each[n], y, rtol=1e-6, atol=1e-6)


def test_every_order_is_equally_likely():
    order = draw(Shuffled([Double(), Square(), Add()]))["order"]
    counts = [np.all(order == p, axis=1).sum() for p in itertools.permutations(range(3))]
    assert sum(counts) == N
    # Chi-square with 5 degrees of freedom: 20.5 is exceeded in 1 of 1000.
    assert np.sum((np.array(counts) - N / 6) ** 2 / (N / 6)) < 20.5
