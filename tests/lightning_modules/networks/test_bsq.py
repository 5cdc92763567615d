"""Bits of latents: one scale, residuals at many, and back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.networks import bsq

SIZES = [(1, 1), (2, 2), (3, 4), (6, 8)]


@pytest.fixture
def f() -> Tensor:
    return torch.randn(2, 5, 6, 8, generator=torch.Generator().manual_seed(0))


# --------------------------------------------------------------------------------------- one scale


def test_a_corner_of_the_sphere() -> None:
    z = torch.tensor([3.0, -0.1, 0.0, -0.0]).view(1, 4, 1, 1)
    assert bsq.quantized(z).flatten().tolist() == [0.5, -0.5, -0.5, -0.5]  # zero is 0
    assert bsq.to_bits(z).flatten().tolist() == [1, 0, 0, 0]
    assert bsq.quantized(torch.zeros(1, 4, 1, 1)).norm() == 1


# ------------------------------------------------------------------------------------- many scales


def by_hand(f: Tensor, sizes: list[tuple[int, int]]) -> tuple[list[Tensor], Tensor]:
    """The recursion as Infinity writes it, with a time axis, area and trilinear."""
    left, total, bits = f.unsqueeze(2), torch.zeros_like(f).unsqueeze(2), []
    for h, w in sizes:
        whole = (h, w) == tuple(f.shape[-2:])
        small = left if whole else functional.interpolate(left, (1, h, w), mode="area")
        u = functional.normalize(small, dim=1)
        bits.append((u > 0).squeeze(2).to(torch.uint8))
        q = torch.where(u > 0, 1.0, -1.0) / math.sqrt(f.shape[1])
        up = functional.interpolate(q, (1, *f.shape[-2:]), mode="trilinear", align_corners=False)
        left, total = left - up, total + up
    return bits, total.squeeze(2)


def test_residuals_are_those_of_infinity(f: Tensor) -> None:
    bits, total = by_hand(f, SIZES)
    scales = list(bsq.scales_of(f, SIZES))
    for scale, expected in zip(scales, bits, strict=True):
        assert torch.equal(scale.bits, expected)
    torch.testing.assert_close(scales[-1].total, total)
    # And bits alone give the same.
    again = bsq.total_after([bsq.from_bits(scale) for scale in bits])
    assert torch.equal(again, scales[-1].total)


@pytest.mark.parametrize("through", [False, True])
def test_where_gradients_pass(f: Tensor, through: bool) -> None:
    """Of two scales of one size: with ``through``, what the second one takes back counts."""
    f.requires_grad_(True)
    sizes = [(6, 8), (6, 8)]
    weight = torch.randn(2, 5, 6, 8, generator=torch.Generator().manual_seed(1))
    scales = list(bsq.scales_of(f, sizes, through=through))
    (found,) = torch.autograd.grad((scales[-1].total * weight).sum(), f)

    def by_direction(z: Tensor, g: Tensor) -> Tensor:
        u, length = functional.normalize(z, dim=1), z.norm(dim=1, keepdim=True)
        return (g - u * (g * u).sum(1, keepdim=True)) / length

    with torch.no_grad():
        first, second = (by_direction(scale.residual, weight) for scale in scales)
        back = by_direction(scales[0].residual, second)
        torch.testing.assert_close(found, first + second - back * through)


# ---------------------------------------------------------------------------------------- the rest


def test_four_positions_are_one_token() -> None:
    x = torch.randn(2, 3, 4, 6)
    tokens = bsq.to_tokens(x, 2)
    assert tokens.shape == (2, 6, 12)
    for c, dy, dx in ((0, 0, 0), (1, 0, 1), (2, 1, 0)):
        assert torch.equal(tokens[:, 1 * 3 + 2, c * 4 + 2 * dy + dx], x[:, c, 2 + dy, 4 + dx])
    assert torch.equal(bsq.from_tokens(tokens, (2, 3), 2), x)
    assert torch.equal(bsq.from_tokens(bsq.to_tokens(x, 1), (4, 6), 1), x)


def test_entropy_is_that_of_its_coins() -> None:
    z = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    u = functional.normalize(z, dim=1).movedim(1, -1).reshape(-1, 4)
    p = torch.sigmoid(-4 * u * 100 / math.sqrt(4))
    coins = lambda p: torch.special.entr(p) + torch.special.entr(1 - p)  # noqa: E731
    expected = (coins(p).sum(1).mean() - coins(p.mean(0)).sum()) / 100
    found = bsq.entropy_penalty(z)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
