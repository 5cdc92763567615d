"""Mirrored borders: as torch's reflection, at any size, and cut back exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.sampling.tiling import padded


def image(h: int, w: int) -> Tensor:
    return torch.rand(2, 3, h, w, generator=torch.Generator().manual_seed(0))


def by_rounds(lr: Tensor, minimum: int, multiple: int) -> tuple[Tensor, int, int]:
    """As released with InvSR: a little in each round, then below and on the right."""
    top = left = 0
    while min(lr.shape[-2:]) < minimum:
        h, w = lr.shape[-2:]
        add_h, add_w = max(minimum - h, 0), max(minimum - w, 0)
        above, before = min(add_h // 2, h - 1), min(add_w // 2, w - 1)
        below, behind = min(add_h - add_h // 2, h - 1), min(add_w - add_w // 2, w - 1)
        lr = functional.pad(lr, (before, behind, above, below), mode="reflect")
        top, left = top + above, left + before
    h, w = lr.shape[-2:]
    lr = functional.pad(lr, (0, -w % multiple, 0, -h % multiple), mode="reflect")
    return lr, top, left


@pytest.mark.parametrize("size", [(2, 3), (5, 70), (33, 31), (64, 64), (70, 20), (100, 101)])
@pytest.mark.parametrize(("minimum", "multiple"), [(1, 2), (64, 1), (64, 16), (37, 8)])
def test_as_reflections_in_rounds(size: tuple[int, int], minimum: int, multiple: int) -> None:
    lr = image(*size)
    expected, top, left = by_rounds(lr, minimum, multiple)
    found = padded(lr, multiple, minimum)
    assert torch.equal(found.lr, expected)
    assert (found.top, found.left) == (top, left)


@pytest.mark.parametrize("h", [1, 2, 9, 16])
@pytest.mark.parametrize("w", [1, 7, 23])
@pytest.mark.parametrize("factor", [1, 3, 4])
def test_cut_back_exactly(h: int, w: int, factor: int) -> None:
    lr = image(h, w)
    found = padded(lr, 16, 24)
    assert min(found.lr.shape[-2:]) >= 24
    assert [side % 16 for side in found.lr.shape[-2:]] == [0, 0]
    large = found.lr.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    expected = lr.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    assert torch.equal(found.crop(large, (factor * h, factor * w)), expected)


def test_nothing_is_missing() -> None:
    lr = image(32, 48)
    found = padded(lr, 16, 32)
    assert found.lr is lr
    assert found.crop(lr, (32, 48)).shape == lr.shape
