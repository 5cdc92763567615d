"""Infinity's autoencoder: its counts, its released layout, images to bits and back."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.networks import bsq
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


@pytest.mark.parametrize(
    ("bits", "widths", "parameters", "tensors", "factor"),
    [
        (14, (128, 256, 512, 512), 81_624_209, 226, 8),
        (32, (128, 256, 512, 512, 512), 110_118_051, 270, 16),
    ],
    ids=["f8", "f16"],
)
def test_counts(
    bits: int, widths: tuple[int, ...], parameters: int, tensors: int, factor: int
) -> None:
    with torch.device("meta"):
        found = BitwiseVAE(bits, widths)
        _, official = released(widths, bits, inner=True)
    assert sum(p.numel() for p in found.parameters()) == parameters
    assert found.factor == factor
    assert len(official) == tensors
    shapes = {name: tensor.shape for name, tensor in bitwise_vae_from_official(official).items()}
    assert shapes == {name: tensor.shape for name, tensor in found.state_dict().items()}


@pytest.mark.parametrize("inner", [True, False], ids=["published", "plain"])
def test_released_weights(inner: bool) -> None:
    reference, official = released(TINY, 4, inner)
    assert ("encoder.down.0.block.0.norm1.norm.weight" in official) == inner
    assert ("decoder.up.1.upsample.conv.conv.weight" in official) == inner
    found = BitwiseVAE(4, TINY)
    found.load_state_dict(bitwise_vae_from_official(official))
    images = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        f = found.encode(images)
        torch.testing.assert_close(f, reference.encoder(2 * images - 1), rtol=1e-5, atol=1e-5)
        expected = (reference.decoder(f) + 1) / 2
        torch.testing.assert_close(found.decode(f), expected, rtol=1e-5, atol=1e-5)


def test_images_to_bits_and_back() -> None:
    vae = BitwiseVAE(6, TINY).eval()
    images, sizes = torch.rand(2, 3, 16, 24), [(1, 1), (2, 3), (4, 6)]
    with torch.no_grad():
        scales = list(bsq.scales_of(vae.encode(images), sizes))
        again = bsq.total_after([bsq.from_bits(scale.bits) for scale in scales])
        assert torch.equal(again, scales[-1].total)
        made = vae.decode(again)
    assert made.shape == images.shape
    assert sum(scale.bits[0].numel() for scale in scales) == 6 * (1 + 6 + 24)


def test_the_colour_of_an_image_gets_through() -> None:
    """Of groups of one channel, the norm before the last layer would take it away."""
    torch.manual_seed(0)
    vae = BitwiseVAE(4, (32, 32), 1, groups=8).eval()
    said = torch.randn(6, 4, 1, 1).sign().expand(-1, -1, 8, 8)
    with torch.no_grad():
        colors = vae.decode(said)[:, :, 6:-6, 6:-6].mean((2, 3))  # away from the border
    assert float(colors.std(0).min()) > 0.05


def test_without_norms_the_images_of_a_batch_and_their_parts_are_apart() -> None:
    vae = BitwiseVAE(4, (8, 12), 1, groups=0).eval()
    assert not [module for module in vae.modules() if isinstance(module, torch.nn.GroupNorm)]
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        whole, part = vae.encode(images), vae.encode(images[..., :32, :32])
        assert vae.decode(whole).shape == images.shape
    torch.testing.assert_close(whole[..., :4, :4], part[..., :4, :4])


def test_latents_are_in_full_precision() -> None:
    vae = BitwiseVAE(4, TINY).eval()
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = vae.encode(images)
    with torch.no_grad():
        assert torch.equal(found, vae.encode(images))


def test_what_does_not_fit() -> None:
    for width in (32, 80):
        with pytest.raises(ValueError, match=f"twice the 32 groups .* not {width}: set other"):
            BitwiseVAE(4, (64, width))
    with pytest.raises(ValueError, match="bits is 0"):
        BitwiseVAE(0, (32,))
    with pytest.raises(ValueError, match=r"groups -1 .* or no groups"):
        BitwiseVAE(4, (32,), groups=-1)
    with pytest.raises(ValueError, match="images are 17x16; expected multiples of 4"):
        BitwiseVAE(4, TINY).encode(torch.rand(1, 3, 17, 16))
