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


def test_the_gradient_is_that_of_the_direction(f: Tensor) -> None:
    z, weight = f.clone().requires_grad_(), torch.randn_like(f)
    (bsq.quantized(z) * weight).sum().backward()
    other = f.clone().requires_grad_()
    (functional.normalize(other, dim=1) * weight).sum().backward()
    torch.testing.assert_close(z.grad, other.grad)
    assert abs((z.grad * f).sum(1)).max() < 1e-5  # along z itself there is none


def test_half_precision_is_left_alone(f: Tensor) -> None:
    near = 1e-8 * f  # bfloat16 would keep the signs, float16 would not
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bsq.quantized(near).dtype == torch.float32
    assert torch.equal(bsq.to_bits(bsq.quantized(near)), bsq.to_bits(f))


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


def test_codes_teach_their_own_scale_and_none_before(f: Tensor) -> None:
    z = f.clone().requires_grad_()
    *_, before, last = bsq.scales_of(z, SIZES)
    [alone] = torch.autograd.grad(last.code.sum(), z, retain_graph=True)
    other = f - before.total.detach()
    other.requires_grad_()
    [expected] = torch.autograd.grad(functional.normalize(other, dim=1).sum(), other)
    torch.testing.assert_close(alone, expected)
    # The sum's gradient passes through the codes of all scales.
    [whole] = torch.autograd.grad(last.total.sum(), z)
    assert not torch.allclose(whole, alone)


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


def test_commitment(f: Tensor) -> None:
    (scale,) = bsq.scales_of(f.requires_grad_(True), [(6, 8)])
    u = functional.normalize(f, dim=1)
    expected = ((u - u.detach().sign() * 5**-0.5) ** 2).mean()
    torch.testing.assert_close(bsq.commitment(scale), expected)
    (found,) = torch.autograd.grad(bsq.commitment(scale), f)
    (wanted,) = torch.autograd.grad(expected, f)
    torch.testing.assert_close(found, wanted)


def test_what_was_flipped_changes_labels_of_later_scales_alone(f: Tensor) -> None:
    def change(number: int, residual: Tensor) -> Tensor:
        bits = bsq.to_bits(residual)
        return bsq.from_bits(1 - bits if number == 1 else bits)

    plain, other = list(bsq.scales_of(f, SIZES)), list(bsq.scales_of(f, SIZES, change))
    same = [torch.equal(a.bits, b.bits) for a, b in zip(plain, other, strict=True)]
    assert same == [True, True, False, False]
    assert torch.equal(bsq.to_bits(other[1].code), 1 - plain[1].bits)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_share_of_flips(probability: float) -> None:
    bits = torch.zeros(100_000, dtype=torch.uint8)
    found = bsq.flipped(bits, probability, torch.Generator().manual_seed(0))
    assert float(found.float().mean()) == pytest.approx(probability, abs=0.01)
    assert found.dtype == torch.uint8


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
    tau = 3.0
    u = functional.normalize(z, dim=1).movedim(1, -1).reshape(-1, 4)
    p = torch.sigmoid(-4 * u * tau / math.sqrt(4))
    coins = lambda p: -(p * p.log() + (1 - p) * (1 - p).log())  # noqa: E731
    expected = (coins(p).sum(1).mean() - 0.5 * coins(p.mean(0)).sum()) / tau
    found = bsq.entropy_penalty(z, tau, 0.5)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
