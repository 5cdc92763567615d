"""EDSR against its official form, written here from the paper and the released files' names."""

import pytest
import torch
from torch.nn import functional

from lightning_modules.networks.edsr import EDSR, MeanShift, arguments_of

MEAN = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)


def generator():
    return torch.Generator().manual_seed(0)


def randomised(net):
    """Weights large enough that an error in any layer shows."""
    source = generator()
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.1, generator=source)
    return net


def upsample(x, conv, names, scale):
    for name in names:
        x = functional.pixel_shuffle(conv(name, x), 3 if scale == 3 else 2)
    return x


def official_form(state, levels, scale, blocks, res_scale):
    """The released program: levels (B, 3, h, w) of 0..255 in and out."""

    def conv(name, x, padding=1):
        return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)

    head = conv("head.0", conv("sub_mean", levels, padding=0))
    x = head
    for i in range(blocks):
        inner = functional.relu(conv(f"body.{i}.body.0", x))
        x = x + res_scale * conv(f"body.{i}.body.2", inner)
    x = conv(f"body.{blocks}", x) + head
    x = upsample(x, conv, ["tail.0.0", "tail.0.2", "tail.0.4"][: scale.bit_length() - 1], scale)
    return conv("add_mean", conv("tail.1", x), padding=0)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_equals_the_official_form(scale):
    net = randomised(EDSR(scale, blocks=3, channels=16, res_scale=0.1))
    lr = torch.rand(2, 3, 9, 7, generator=generator())
    with torch.no_grad():
        expected = official_form(net.state_dict(), lr * 255, scale, 3, 0.1) / 255
        found = net(lr)
    assert found.shape == (2, 3, 9 * scale, 7 * scale)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [2, 3])
def test_global_skip_starts_as_bicubic(scale):
    lr = torch.rand(1, 3, 12, 9, generator=generator())
    size = (12 * scale, 9 * scale)
    bicubic = functional.interpolate(lr, size=size, mode="bicubic", antialias=True)
    with torch.no_grad():
        found = EDSR(scale, blocks=1, channels=8, global_skip=True)(lr)
        plain = EDSR(scale, blocks=1, channels=8)(lr)
    torch.testing.assert_close(found, bicubic, atol=1e-5, rtol=0)
    assert (plain - bicubic).abs().max() > 0.1


def test_mean_shift_is_exact_under_autocast():
    levels = torch.arange(256.0).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        shifted = MeanShift(-1)(levels)
    assert shifted.dtype == torch.float32
    torch.testing.assert_close(shifted, levels - 255 * MEAN)


def basicsr(net):
    """Return its tensors by BasicSR's names."""
    blocks = len(net.body) - 1
    renamed = {}
    for name, tensor in net.state_dict().items():
        for ours, theirs in (
            *((f"body.{blocks}.", "conv_after_body."), (".body.0.", ".conv1.")),
            *((".body.2.", ".conv2."), ("head.0.", "conv_first.")),
            *(("tail.0.", "upsample."), ("tail.1.", "conv_last.")),
        ):
            name = name.replace(ours, theirs)
        if "_mean." not in name:
            renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_file_in_basicsrs_layout(scale):
    net = randomised(EDSR(scale, blocks=3, channels=8))
    arguments = arguments_of(basicsr(net))
    assert arguments == {"scale": scale, "blocks": 3, "channels": 8, "res_scale": 1.0}
    assert arguments == arguments_of(net.state_dict())
    again = EDSR(**arguments)
    again.load_state_dict(again.official(basicsr(net)))
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in net.state_dict().items())
