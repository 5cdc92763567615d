"""CasArbi's denoiser: sizes, what it listens to, and its coordinates."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import interpolate

from lightning_modules.networks.sft_unet import SFTUNet, coordinates, fourier
from tests.lightning_modules.tiny import fill

SMALL = {"features": 8, "width": 8, "multipliers": (1, 2, 4), "blocks": 1}


def given(size=(24, 24), lr_size=(12, 12), features=8):
    generator = torch.Generator().manual_seed(1)
    x, base = torch.randn(2, 2, 3, *size, generator=generator).unbind(0)
    seen = torch.randn(2, features, *lr_size, generator=generator) if features else None
    return {"x": x, "t": torch.tensor([1, 9]), "base": base, "features": seen, "lr_size": lr_size}


def test_features_lie_where_they_are_also_beside_a_patch_beyond_the_border():
    """A position has the features at the middle of its square: none is stretched."""
    model = fill(SFTUNet(**SMALL, patch=4)).eval()
    seen = []
    model.first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, -16:]))
    inputs = given((85, 88), (22, 22))
    model(**inputs)
    rows = torch.tensor([min(int((4 * n + 2) * 22 / 85), 21) for n in range(22)])
    assert rows[15] == 16  # where the stretched ones would be of 15
    assert torch.equal(seen[0], model.reduce(inputs["features"])[:, :, rows])


def test_the_published_size():
    with torch.device("meta"):
        model = SFTUNet()
    assert model.first.in_channels == 22
    assert [m.gamma.out_channels for m in model.modulate_down] == [64, 128, 256, 512]
    assert [m.gamma.out_channels for m in model.modulate_up] == [512, 256, 128, 64]


@pytest.mark.parametrize(("n", "m"), [(8, 12), (4, 10), (16, 20), (64, 85), (3, 8)])
def test_an_offset_is_from_the_pixel_whose_features_are_there(n, m):
    """Also on ties: at x1.5, the last stage of x12, these are a third of a side's pixels."""
    numbers = torch.arange(n, dtype=torch.float32).view(1, 1, n, 1).expand(1, 1, n, 2)
    seen = interpolate(numbers, (m, 2), mode="nearest-exact")[0, 0, :, 0]
    centres = (torch.arange(m) + 0.5) * (n / m) - 0.5
    box = (0.0, n), (0.0, 2.0)
    found = coordinates((n, 2), (m, 2), [box], torch.device("cpu"))[0, 0, :, 0]
    torch.testing.assert_close(found, 2 * (centres - seen), rtol=0, atol=1e-4)


def test_fourier_features():
    place = torch.tensor([0.25, -0.5, 1.0, 2.0]).view(1, 4, 1, 1)
    found = fourier(place, 2).flatten().tolist()
    expected = [0.25, -0.5, 1.0, 2.0]
    for octave in (1, 2):
        for wave in (math.sin, math.cos):
            expected += [wave(math.pi * octave * d) for d in (0.25, -0.5)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert fourier(place, 0).shape == (1, 4, 1, 1)
