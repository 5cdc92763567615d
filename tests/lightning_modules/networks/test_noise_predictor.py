"""InvSR's noise predictor: its size and names, what it predicts, and its attention in slices."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_modules.networks.noise_predictor import NoisePredictor

SMALL = {"widths": (32, 64), "layers": 1, "head_width": 16}


def seeded(**arguments):
    torch.manual_seed(0)
    return NoisePredictor(**{**SMALL, **arguments}).eval()


def test_it_is_what_the_paper_draws():
    """Layer by layer, from the weights alone."""
    model = seeded(layers=2)
    weights = model.state_dict()
    lr, t = torch.rand(2, 3, 6, 4), torch.tensor([249.0, 99.5])

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def conv(name, x, **how):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return torch.nn.functional.conv2d(x, weight, bias, **how)

    def norm(name, x):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return torch.nn.functional.group_norm(x, 32, weight, bias, 1e-6)

    def silu(x):
        return x * x.sigmoid()

    def residual(name, x):
        y = conv(f"{name}.conv1", silu(norm(f"{name}.norm1", x)), padding=1)
        y = y + linear(f"{name}.time_emb_proj", silu(embedded))[:, :, None, None]
        y = conv(f"{name}.conv2", silu(norm(f"{name}.norm2", y)), padding=1)
        return y + (conv(f"{name}.conv_shortcut", x) if len(y[0]) != len(x[0]) else x)

    def attention(name, x):
        pixels = norm(f"{name}.group_norm", x).flatten(2).transpose(1, 2)
        q, k, v = (
            linear(f"{name}.to_{part}", pixels).unflatten(2, (-1, 16)).transpose(1, 2)
            for part in "qkv"
        )
        seen = (q @ k.transpose(2, 3) / 4).softmax(3) @ v
        y = linear(f"{name}.to_out.0", seen.transpose(1, 2).flatten(2))
        return x + y.transpose(1, 2).reshape(x.shape)

    frequencies = torch.exp(-math.log(10_000) * torch.arange(16) / 16)
    angles = t[:, None] * frequencies
    embedded = linear("encoder.time_embedding.linear_1", torch.cat([angles.cos(), angles.sin()], 1))
    embedded = linear("encoder.time_embedding.linear_2", silu(embedded))
    x = conv("encoder.conv_in", 2 * lr - 1, padding=1)
    for level in range(2):
        for i in range(2):
            x = residual(f"encoder.down_blocks.{level}.resnets.{i}", x)
            x = attention(f"encoder.down_blocks.{level}.attentions.{i}", x)
        if level == 0:  # zeros on the right and below alone
            padded = torch.nn.functional.pad(x, (0, 1, 0, 1))
            x = conv("encoder.down_blocks.0.downsamplers.0.conv", padded, stride=2)
    x = residual("encoder.mid_block.resnets.0", x)
    x = residual("encoder.mid_block.resnets.1", attention("encoder.mid_block.attentions.0", x))
    x = conv("encoder.conv_out", silu(norm("encoder.conv_norm_out", x)), padding=1)
    mean, logvar = model(lr, t)
    torch.testing.assert_close(mean, x[:, :4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logvar, x[:, 4:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("scale", "halvings"), [(8, 0), (4, 1), (2, 2), (1, 3)])
def test_the_halvings_of_a_scale(scale, halvings):
    """Fitted to it, the levels see as many pixels as at scale 4, for an output of one size."""
    model = seeded().requires_grad_(False)
    before = model.encoder
    model.fit_to(scale, 8)
    assert (model.encoder is before) == (scale == 4)
    assert not any(weight.requires_grad for weight in model.parameters())  # it stays frozen
    assert (model.divisor, model.fold) == (2**halvings, 2 ** max(halvings - 1, 0))
    seen = []
    model.encoder.down_blocks[0].attentions[0].register_forward_pre_hook(
        lambda _, given: seen.append(given[0].shape[-1])
    )
    found = model.eval()(torch.rand(1, 3, 64 // scale, 64 // scale), 100)
    assert found.mean.shape == (1, 4, 8, 8)
    assert seen == [8 if scale == 8 else 16]


def test_folding_keeps_every_pixel_in_its_place():
    """A change of one LR pixel first changes the folded pixel that holds it."""
    model, first = seeded(), []
    model.fit_to(1, 8)
    model.encoder.conv_in.register_forward_pre_hook(lambda _, given: first.append(given[0]))
    lr = torch.rand(1, 3, 16, 16)
    other = lr.clone()
    other[0, 1, 6, 9] += 0.5
    for image in (lr, other):
        model(image, 100)
    changed = (first[1] - first[0]).nonzero().tolist()
    assert changed == [[0, 16 + 4 * 2 + 1, 1, 2]]
    assert first[0].shape == (1, 48, 4, 4)
    assert torch.equal(first[0].flatten().sort().values, (lr * 2 - 1).flatten().sort().values)


def test_the_variance_has_bounds():
    model = seeded()
    model.encoder.conv_out.bias.data[4:6] = torch.tensor([1000.0, -1000.0])
    logvar = model(torch.rand(1, 3, 4, 4), 100).logvar
    assert (logvar[:, 0] == 20).all()
    assert (logvar[:, 1] == -30).all()
