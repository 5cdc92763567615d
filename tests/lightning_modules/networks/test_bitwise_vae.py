"""Infinity's autoencoder: its counts, its released layout, images to bits and back."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.networks.autoencoders import BitwiseVAE, bitwise_vae_from_official
from tests.reference.vqgan import VQGAN

TINY = (64, 64, 64)


def released(widths: tuple[int, ...], bits: int, inner: bool) -> tuple[Any, dict[str, Tensor]]:
    """Random weights in the released layout: VQGAN's without attention, and the mask of codes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reference = VQGAN(widths, 1, bits)
    for part in (reference.encoder, reference.decoder):
        part.mid.attn_1 = nn.Identity()
    tensors = {
        name: tensor
        for name, tensor in reference.state_dict().items()
        if not re.search("quant", name)
    }
    if inner:
        pattern = r"((?:conv|norm|nin)\w*)\.(weight|bias)$"
        kinds = {"c": "conv", "n": "norm"}

        def within(match: re.Match[str]) -> str:
            kind = "conv" if match[1] == "nin_shortcut" else kinds[match[1][0]]
            return f"{match[1]}.{kind}.{match[2]}"

        tensors = {re.sub(pattern, within, name): tensor for name, tensor in tensors.items()}
    mask = 2 ** torch.arange(bits - 1, -1, -1)
    return reference, {**tensors, "quantizer.lfq.mask": mask, "quantize.lfq.mask": mask}


@pytest.mark.parametrize("inner", [True, False], ids=["published", "plain"])
def test_released_weights(inner: bool) -> None:
    reference, official = released(TINY, 4, inner)
    assert ("encoder.down.0.block.0.norm1.norm.weight" in official) == inner
    found = BitwiseVAE(4, TINY)
    found.load_state_dict(bitwise_vae_from_official(official))
    images = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        f = found.encode(images)
        torch.testing.assert_close(f, reference.encoder(2 * images - 1), rtol=1e-5, atol=1e-5)
        expected = (reference.decoder(f) + 1) / 2
        torch.testing.assert_close(found.decode(f), expected, rtol=1e-5, atol=1e-5)


def test_latents_are_in_full_precision() -> None:
    vae = BitwiseVAE(4, TINY).eval()
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = vae.encode(images)
    with torch.no_grad():
        assert torch.equal(found, vae.encode(images))
