"""ScaleCrafter: what dilation is, when it is, and that the network is as before afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.controls.scalecrafter import (
    ScaleCrafter,
    Step,
    convolutions,
    redilated,
)
from lightning_modules.noise import Noise
from lightning_modules.sampling.solvers import Sampler
from tests.lightning_modules.backbone.texts import Words
from tests.lightning_modules.controls.test_direct import direct
from tests.lightning_modules.methods.test_self_cascade import base, batch

DEEP = {"down_blocks": 2.0, "mid_block": 2.0}


def layer(stride: int = 1) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(2, 3, 3, stride, padding=1)


@pytest.mark.parametrize("factor", [2, 3])
@torch.no_grad()
def test_dilation_is_a_convolution_of_each_phase(factor):
    conv, x = layer(), torch.randn(1, 2, 12, 18)
    with redilated(conv, factor):
        found = conv(x)
    for i in range(factor):
        for j in range(factor):
            expected = conv(x[..., i::factor, j::factor])
            torch.testing.assert_close(found[..., i::factor, j::factor], expected)
    assert not torch.allclose(found, conv(x))


@pytest.mark.parametrize("factor", [1.5, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_comes_back(factor, stride):
    conv, x = layer(stride), torch.randn(1, 2, 8, 9)
    before, shape = (conv.dilation, conv.padding), conv(x).shape
    with redilated(conv, factor):
        assert conv(x).shape == shape
    with pytest.raises(RuntimeError), redilated(conv, factor):
        conv(x[:, :1])
    assert (conv.dilation, conv.padding) == before
    assert not conv._forward_hooks
    assert not conv._forward_pre_hooks


def test_factors_by_step():
    falling = ScaleCrafter(DEEP, tau=37, progressive=True)
    assert [falling.factor(4, i) for i in (0, 9, 10, 18, 19, 36, 37)] == [4, 4, 3, 3, 2, 2, 1]
    same = ScaleCrafter(DEEP, tau=20)
    assert [same.factor(2.5, i) for i in (0, 19, 20)] == [2.5, 2.5, 1]
    assert falling.factor(1, 0) == 1


def test_the_longest_name_counts_and_shortcuts_stay():
    unet = base().unet
    names = list(convolutions(unet))
    assert "conv_in" not in names
    assert not any("shortcut" in name for name in names)
    patch = ScaleCrafter({"down_blocks": 2.0, "down_blocks.0.resnets": 3.0})
    with patch.applied(base_of(unet), Step(0, 50, (16, 16), (8, 8))):
        reach = {name: module.dilation[0] for name, module in convolutions(unet).items()}
    inner = [name for name in names if name.startswith("down_blocks.0.resnets")]
    assert inner
    assert all(reach[name] == 3 for name in inner)
    down = [name for name in names if name.startswith("down_blocks") and name not in inner]
    assert down
    assert all(reach[name] == 2 for name in down)
    assert all(reach[name] == 1 for name in names if not name.startswith("down_blocks"))


def base_of(unet: Any) -> Any:
    denoiser = base()
    denoiser.unet = unet
    return denoiser


def calls_of(method: Any) -> list[tuple[int, tuple[int, ...]]]:
    """(batch, dilations of all layers) of each call."""
    found: list[tuple[int, tuple[int, ...]]] = []
    own = method.denoiser.forward

    def forward(z: Any, *more: Any) -> Any:
        layers = convolutions(method.denoiser.unet)
        found.append((len(z), tuple(module.dilation[0] for module in layers.values())))
        return own(z, *more)

    method.denoiser.forward = forward
    return found


@torch.no_grad()
def test_damped_guidance():
    patch = ScaleCrafter(DEEP, 4, damped_steps=2, damped_without=("down_blocks",))
    method = direct(patch=patch, sampler=Sampler(steps=4), encoder=Words(), guidance=3.0)
    calls = calls_of(method)
    given = batch()
    method.generate(given, Noise(given["seed"]))
    assert [count for count, _ in calls] == [2, 4, 2, 4, 4, 4]  # one call more
    names = list(convolutions(method.denoiser.unet))
    first, second = (dict(zip(names, dilations, strict=True)) for _, dilations in calls[:2])
    assert all(first[n] == 1 for n in names if n.startswith("down_blocks"))
    assert all(second[n] == 2 for n in names if n.startswith("down_blocks"))
    assert all(first[n] == second[n] == 2 for n in names if n.startswith("mid_block"))

    # Where the weak network is the same, so is the rule.
    z, t = torch.randn(2, 3, 16, 16), torch.tensor([5, 5])
    known = method._conditions(given, (16, 16), (8, 8))
    step = Step(0, 4, (16, 16), (8, 8))
    same = ScaleCrafter(DEEP, 4, damped_steps=2, damped_without=())
    outputs = [
        p.guided(method.denoiser, step, lambda *a: method.predict(5, *a), z, t, known, 3.0)
        for p in (same, ScaleCrafter(DEEP, 4))
    ]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
