"""Repetition: what counts as repeated at the base's distance, and what does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from callbacks.metrics.consistency import Repetition, autocorrelation


def scenes(count: int, seed: int, side: int = 32) -> Tensor:
    """Images of one bright object each, on a ground below a sky."""
    draws = torch.Generator().manual_seed(seed)
    sky = torch.linspace(0.8, 0.2, side).view(1, 1, side, 1).expand(count, 3, side, side)
    objects = torch.rand(count, 3, side // 4, side // 4, generator=draws) - 0.5
    return (sky + 0.8 * functional.pad(objects, [side * 3 // 8] * 4)).clamp(0, 1)


def number(images: Tensor, base: int = 16) -> float:
    batch: Any = {"key": [str(n) for n in range(len(images))]}
    return float(Repetition(base).features(images, batch).mean())


def test_the_formula() -> None:
    x = torch.rand(2, 20, 9, dtype=torch.float64)
    found = autocorrelation(x, range(3, 5))
    y = x[1] - x[1].mean(0)
    a, b = y[:-4], y[4:]
    expected = sum(float(p * q) for p, q in zip(a.flatten(), b.flatten(), strict=True))
    expected /= (float((a**2).sum()) * float((b**2).sum())) ** 0.5
    assert float(found[1, 1]) == pytest.approx(expected)


def test_quarters_of_an_image_repeat_it() -> None:
    whole = scenes(20, 0)
    once = number(whole)
    four = functional.avg_pool2d(whole, 2).tile(1, 1, 2, 2)
    assert number(four) > once + 0.4
    beside = functional.avg_pool2d(whole, (1, 2)).tile(1, 1, 1, 2)
    assert number(beside) > once + 0.05


def test_a_level_ground_is_no_repetition_and_neither_is_blur() -> None:
    whole = scenes(20, 0)
    ground = torch.linspace(0, 1, 32).view(1, 1, 32, 1).expand(2, 3, 32, 32)
    assert number(ground) < 0
    blurred = functional.interpolate(functional.avg_pool2d(whole, 2), scale_factor=2.0)
    assert abs(number(blurred) - number(whole)) < 0.05


def test_images_of_any_size_are_brought_to_one() -> None:
    whole = scenes(4, 1)
    large = functional.interpolate(whole, scale_factor=4.0, mode="nearest")
    assert number(large, base=64) == pytest.approx(number(whole), abs=1e-6)
    flat = torch.full((1, 3, 32, 48), 0.5)
    assert number(flat) == pytest.approx(0, abs=1e-9)
