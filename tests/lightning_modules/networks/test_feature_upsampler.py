"""Feature upsamplers: their counts, what they add untrained, and that each of them learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from lightning_modules.networks.feature_upsampler import (
    TIME_WIDTH,
    Full,
    Places,
    Shared,
)

SMALL = Places({"1": 6, "middle": 8}, 16)


def given(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "1": torch.randn(2, 6, 5, 4, generator=generator),
        "middle": torch.randn(2, 8, 3, 2, generator=generator),
    }


SIZES = {"1": (11, 8), "middle": (6, 4)}


def sinusoid(t, width):
    """Sines, then cosines, of wavelengths from 2 pi."""
    places = torch.arange(width // 2)
    angles = t[:, None] * torch.exp(-math.log(10_000) / (width // 2) * places)
    return torch.cat([angles.sin(), angles.cos()], 1)


def time_of(phi, t=(5, 600)):
    steps = torch.tensor(t)
    return sinusoid(steps, 16) if phi.from_network else steps


def test_untrained_they_add_nothing_but_learn():
    torch.manual_seed(0)
    phi = Shared(SMALL)
    added = phi(given(), SIZES, time_of(phi))
    assert [tuple(x.shape) for x in added.values()] == [(2, 6, 11, 8), (2, 8, 6, 4)]
    assert not any(x.any() for x in added.values())
    sum(x.sum() for x in added.values()).backward()
    assert all(p.grad is not None for p in phi.parameters())
    assert any(p.grad.any() for p in phi.parameters())


@pytest.mark.parametrize("resize", ["bilinear", "nearest"])
def test_as_released_the_pivots_features_are_added(resize):
    features = given()
    phi = Full(SMALL, resize=resize)
    added = phi(features, SIZES, time_of(phi))
    for name, x in features.items():
        mode = {"mode": "bilinear"} if resize == "bilinear" else {"mode": "nearest-exact"}
        assert torch.equal(added[name], functional.interpolate(x, SIZES[name], **mode))


@pytest.mark.parametrize("make", [Shared, Full])
def test_they_know_the_time(make):
    torch.manual_seed(0)
    phi = make(SMALL)
    with torch.no_grad():
        for parameter in phi.parameters():
            parameter.copy_(torch.randn_like(parameter))
    early, late = (phi(given(), SIZES, time_of(phi, t)) for t in ((5, 600), (5, 20)))
    for name in early:
        assert torch.equal(early[name][0], late[name][0])
        assert (early[name][1] - late[name][1]).abs().max() > 1e-3


def test_each_channel_is_an_image_of_its_own_to_the_blocks():
    torch.manual_seed(0)
    phi = Shared(SMALL)
    with torch.no_grad():
        for parameter in phi.parameters():
            parameter.copy_(torch.randn_like(parameter))
    features, times = given(), time_of(phi)
    tau, own = sinusoid(times, TIME_WIDTH), phi.places["1"]
    with torch.no_grad():
        x = functional.interpolate(features["1"], SIZES["1"], mode="bilinear")
        for block in own.blocks:  # x + conv2(SiLU(conv1(x) + W tau))
            images = x.flatten(0, 1)[:, None]
            inner = block.conv1(images).unflatten(0, x.shape[:2])
            inner = inner + block.time(tau)[:, None, :, None, None]
            x = x + block.conv2(functional.silu(inner).flatten(0, 1)).view_as(x)
        added = phi(features, SIZES, times)["1"]
    torch.testing.assert_close(added, own.alpha * x, rtol=1e-4, atol=1e-4)
