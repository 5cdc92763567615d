"""The space of bits: its scales, round trips, and released weights."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.backbone.bitwise import BitwiseSpace
from lightning_modules.networks.autoencoders import BitwiseVAE
from lightning_modules.networks.bsq import from_bits, proportional, published, to_bits, total_after
from tests.lightning_modules.networks.test_bitwise_vae import released
from tests.lightning_modules.next_scale_parts import BITS, GRIDS, space


def test_the_released_one_has_scales_for_all_aspect_ratios():
    with torch.device("meta"):
        found = BitwiseSpace()
    assert (found.channels, found.factor, found.bits) == (14, 8, 56)
    assert found.square == published(1.0, "1M", 2)
    assert found.scales((128, 128)).tokens == 10_521
    assert found.scales((180, 90)) == published(2.0, "1M", 2)
    assert found.scales((90, 180)) == published(0.5, "1M", 2)
    with pytest.raises(ValueError, match=r"800x800 pixels has no scales: .* 1024x1024"):
        found.scales((100, 100))


def test_a_round_trip_says_what_bits_say():
    found, images = space(), torch.rand(2, 3, 32, 32)
    z = found.encode(images)
    scales = found.coded(z)
    assert [tuple(scale.code.shape[-2:]) for scale in scales] == GRIDS
    bits = [to_bits(scale.residual) for scale in scales]
    total = total_after([from_bits(scale) for scale in bits])
    torch.testing.assert_close(found.images(total), found.decode(z), rtol=0, atol=0)
    assert not torch.allclose(found.decode(z), found.images(z))
    again = found.coded(found.encode(images[:1]))
    assert torch.equal(from_bits(again[3].bits), again[3].code)


def test_other_sizes_have_their_share():
    assert proportional(GRIDS, (4, 4)) == GRIDS
    assert proportional(GRIDS, (8, 2)) == [(2, 1), (4, 1), (6, 2), (8, 2)]
    wide = torch.rand(1, 3, 16, 64)
    assert space().decode(space().encode(wide)).shape == wide.shape


@pytest.mark.parametrize("wrapper", ["vae", None])
def test_released_weights(tmp_path, wrapper):
    widths = (64, 64, 64, 64)
    _, official = released(widths, BITS, True)
    path = tmp_path / "vae.pth"
    torch.save({wrapper: official} if wrapper else official, path)
    found = BitwiseSpace(BitwiseVAE(BITS, widths), GRIDS, 1)
    found.load_official(path)
    assert found.source.startswith(str(path))
    assert torch.equal(found.vae.encoder.conv_in.weight, official["encoder.conv_in.conv.weight"])
    assert not found.train().training
    assert not any(parameter.requires_grad for parameter in found.parameters())
