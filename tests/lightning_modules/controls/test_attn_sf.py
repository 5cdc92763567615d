"""Attn-SF: its temperatures, that attention truly changes, and that it is as before afterwards."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from lightning_modules.controls.direct import AttnSF, self_attention, temperature
from lightning_modules.controls.scalecrafter import Step
from tests.lightning_modules.methods.test_self_cascade import base

TWICE = Step(0, 50, (16, 16), (8, 8))


def test_temperatures_of_the_paper():
    """By level, for latents of 64 to 128 and to 256: areas, not sides."""
    found = [temperature((128 >> n) ** 2, (64 >> n) ** 2) for n in range(4)]
    assert [round(x, 4) for x in found] == [1.0801, 1.0954, 1.1180, 1.1547]
    found = [temperature((256 >> n) ** 2, (64 >> n) ** 2) for n in range(4)]
    assert [round(x, 4) for x in found] == [1.1547, 1.1832, 1.2247, 1.2910]


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
@torch.no_grad()
def test_a_layer_attends_with_it(processor):
    denoiser = base()
    layers = self_attention(denoiser.unet)
    assert layers
    for name, layer in layers.items():
        layer.set_processor(processor())
        x = torch.randn(2, 64, layer.to_q.in_features, generator=torch.Generator().manual_seed(0))
        with AttnSF().applied(denoiser, TWICE):
            found = layer(x)
        q, k, v = (
            project(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
            for project in (layer.to_q, layer.to_k, layer.to_v)
        )
        scale = math.sqrt(math.log(64) / math.log(16)) / math.sqrt(q.shape[-1])
        mixed = (q @ k.transpose(-1, -2) * scale).softmax(-1) @ v
        expected = layer.to_out[0](mixed.transpose(1, 2).flatten(2))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=name)
        assert isinstance(layer.processor, processor)
