"""IMDN: the published weights give the published figures; the rest in small."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from files.weights import read_weights
from lightning_modules.networks.imdn import IMDN, ContrastAttention, arguments_of
from tests.quick import quick

# What the published x2, x3 and x4 files hold, and their PSNR-Y on Set5 (border = scale, 8 bits),
# measured with another program; the paper prints 38.00, 34.36 and 32.21.
PUBLISHED = [(2, 694_404, 37.997), (3, 703_059, 34.362), (4, 715_176, 32.211)]
LUMA = np.array([65.481, 128.553, 24.966]) / 255


def psnr_y(sr, hr, border):
    difference = ((sr - hr) @ LUMA)[border:-border, border:-border]
    return 10 * math.log10(255**2 / np.square(difference).mean())


@pytest.mark.parametrize(("scale", "parameters", "psnr"), quick(PUBLISHED, 4))
def test_published_weights_give_published_psnr(scale, parameters, psnr, weights_root, data_root):
    tensors = read_weights(weights_root / f"imdn-x{scale}.pth").tensors
    net = IMDN(**arguments_of(tensors))
    net.load_state_dict(tensors, strict=True)
    assert sum(p.numel() for p in net.parameters()) == parameters

    found = []
    for file in sorted((data_root / "set5" / f"x{scale}" / "lr").glob("*.png")):
        lr = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)
        hr = np.array(Image.open(file.parents[1] / "hr" / file.name).convert("RGB"))
        with torch.inference_mode():
            sr = net(lr[None].float() / 255)[0].clamp(0, 1)
        found.append(psnr_y(sr.mul(255).round().permute(1, 2, 0).numpy(), hr, scale))
    assert len(found) == 5
    assert np.mean(found) == pytest.approx(psnr, abs=0.001)


def test_attention_gate_is_deviation_plus_mean():
    attention = ContrastAttention(16)
    x = torch.randn(2, 16, 5, 4, generator=torch.Generator().manual_seed(0))
    flat = x.flatten(2)
    mean = flat.mean(2)
    deviation = (flat - mean.unsqueeze(2)).square().mean(2).sqrt()  # over n, not over n - 1
    gate = attention.conv_du((deviation + mean)[..., None, None])
    torch.testing.assert_close(attention(x), x * gate)


def test_gradient_of_a_single_pixel_is_finite():
    # Every channel of one pixel has deviation 0, where the square root's slope is infinite.
    net = IMDN(2, channels=16, blocks=1)
    net(torch.rand(1, 3, 1, 1)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
