"""EDSR against its official form, written here from the paper and the released files' names."""

import pytest
import torch
from torch.nn import functional

from lightning_modules.networks.edsr import EDSR, MeanShift

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


def basicsr_form(state, lr, scale, blocks):
    """BasicSR's port: lr (B, 3, h, w) of 0..1 in and out, the mean kept outside of the file."""

    def conv(name, x):
        return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    first = conv("conv_first", (lr - MEAN) * 255)
    x = first
    for i in range(blocks):
        x = x + conv(f"body.{i}.conv2", functional.relu(conv(f"body.{i}.conv1", x)))
    x = conv("conv_after_body", x) + first
    x = upsample(x, conv, ["upsample.0", "upsample.2"][: scale.bit_length() - 1], scale)
    return conv("conv_last", x) / 255 + MEAN


@pytest.mark.parametrize(("scale", "trainable"), [(2, 1_369_859), (3, 1_554_499), (4, 1_517_571)])
def test_baseline_size_and_names(scale, trainable):
    net = EDSR(scale)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == trainable
    state = net.state_dict()
    assert sum(t.numel() for name, t in state.items() if "_mean." in name) == 24
    layers = {"sub_mean", "add_mean", "head.0", "body.16", "tail.0.0", "tail.1"}
    layers |= {f"body.{i}.body.{j}" for i in range(16) for j in (0, 2)}
    layers |= {"tail.0.2"} if scale == 4 else set()
    assert state.keys() == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


@pytest.mark.parametrize(("blocks", "channels", "millions"), [(32, 256, 40.7), (4, 32, 0.122)])
def test_other_sizes(blocks, channels, millions):
    with torch.device("meta"):
        net = EDSR(2, blocks=blocks, channels=channels)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(millions * 1e6, rel=5e-3)


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


def test_official_names_pass_unchanged():
    state = EDSR(2, blocks=1, channels=8).state_dict()
    assert EDSR.official(state) == state


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_basicsr_weights(scale):
    blocks, channels = 11, 8  # two digits, so that 1 is not taken for 10
    source = generator()
    factors = [3] if scale == 3 else [2] * (scale // 2)
    layers = {"conv_first": (3, channels), "conv_after_body": (channels, channels)}
    layers |= {f"body.{i}.conv{j}": (channels, channels) for i in range(blocks) for j in (1, 2)}
    layers |= {f"upsample.{2 * n}": (channels, channels * f**2) for n, f in enumerate(factors)}
    layers["conv_last"] = (channels, 3)
    state = {}
    for name, (inputs, outputs) in layers.items():
        state[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=source) * 0.1
        state[f"{name}.bias"] = torch.randn(outputs, generator=source) * 0.1

    net = EDSR(scale, blocks=blocks, channels=channels)
    net.load_state_dict(EDSR.official(state), strict=True)
    lr = torch.rand(1, 3, 6, 5, generator=source)
    with torch.no_grad():
        expected = basicsr_form(state, lr, scale, blocks)
        torch.testing.assert_close(net(lr), expected, atol=1e-5, rtol=1e-5)


def test_unknown_names_of_basicsr_files_are_left_for_the_report():
    mapped = EDSR.official({"conv_first.weight": torch.zeros(1), "extra.weight": torch.zeros(1)})
    assert "extra.weight" in mapped


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


def test_global_skip_learns_at_once():
    # An edge that bicubic blurs; a few steps have to be better than it.
    torch.manual_seed(0)
    hr = torch.zeros(1, 3, 32, 32)
    hr[..., 13:] = 1
    lr = functional.interpolate(hr, scale_factor=0.5, mode="bicubic", antialias=True)
    net = EDSR(2, blocks=2, channels=16, global_skip=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(31):
        loss = (net(lr) - hr).abs().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_channels_last():
    net = randomised(EDSR(2, blocks=2, channels=16, global_skip=True))
    lr = torch.rand(2, 3, 8, 10, generator=generator())
    with torch.no_grad():
        expected = net(lr)
        net.to(memory_format=torch.channels_last)
        found = net(lr.contiguous(memory_format=torch.channels_last))
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_mean_shift_is_exact_under_autocast():
    levels = torch.arange(256.0).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        shifted = MeanShift(-1)(levels)
    assert shifted.dtype == torch.float32
    torch.testing.assert_close(shifted, levels - 255 * MEAN)


def test_mean_shift_is_not_trained():
    assert not any("mean" in name for name, _ in EDSR(2, blocks=1, channels=8).named_parameters())


@pytest.mark.parametrize("scale", [1, 2.5, 5, 6, 0])
def test_scale_that_it_cannot_make(scale):
    with pytest.raises(ValueError, match=r"data\.init_args\.scale is .*2, 3, 4 or 8"):
        EDSR(scale)


@pytest.mark.parametrize("options", [{"channels": 0}, {"channels": -1}, {"blocks": -1}])
def test_no_layers(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} of EDSR is {value}; expected [01] or more"):
        EDSR(2, **options)
