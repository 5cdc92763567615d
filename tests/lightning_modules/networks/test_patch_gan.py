"""PatchGAN: how much it sees, and of what."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.networks.discriminator import PatchGAN


def test_a_logit_sees_seventy_pixels() -> None:
    torch.manual_seed(0)
    network = PatchGAN(8).eval()
    images = torch.rand(1, 3, 128, 128, requires_grad=True)
    (logits,) = network(images)
    assert logits.shape == (1, 1, 14, 14)
    for module in network.modules():  # which see whole maps
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]
    network(images)[0][0, 0, 7, 7].backward()
    assert images.grad is not None
    rows = images.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == 70


def test_parameters() -> None:
    # As pix2pix's has: norms of groups have as many as norms of batches.
    convolutions = (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) * 16
    others = 64 + 1 + 2 * (128 + 256 + 512)  # biases, and norms
    assert sum(parameter.numel() for parameter in PatchGAN().parameters()) == convolutions + others


def test_an_image_is_judged_by_itself() -> None:
    torch.manual_seed(0)
    network, images = PatchGAN(8, 2), torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(network(images)[0][1:2], network(images[1:2])[0])


@pytest.mark.parametrize("wrong", [(12, 3), (0, 3), (64, 0)])
def test_what_cannot_be(wrong: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected a multiple of 8"):
        PatchGAN(*wrong)
