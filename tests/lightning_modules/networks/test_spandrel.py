"""Spandrel: a tiny checkpoint of Real-ESRGAN's compact network, written and computed here."""

import pytest
import torch
from safetensors.torch import save_file

from lightning_modules.networks.rrdb import RRDBNet, SRVGGNetCompact
from lightning_modules.networks.spandrel import Spandrel
from tests.lightning_modules.networks.test_rrdb import random, shapes_of

spandrel = pytest.importorskip("spandrel", reason="needs the optional package spandrel")


COMPACT = random(shapes_of(SRVGGNetCompact(2, 8, 1)))


def computed(lr):
    """By our own network; see test_rrdb.py."""
    net = SRVGGNetCompact(2, 8, 1)
    net.load_state_dict(COMPACT)
    return net(lr)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "compact_x2.pth"
    torch.save({"params_ema": COMPACT, "params": {}}, path)
    return path


def swin():
    """SwinIR's, small; it pads to whole windows."""
    from spandrel.architectures.SwinIR import SwinIR

    sizes = {"embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 8}
    return SwinIR(upscale=4, img_size=64, upsampler="pixelshuffledirect", **sizes)


def test_networks_of_the_community(tmp_path):
    """Made by spandrel's own classes: the file alone says which of them it is."""
    torch.manual_seed(0)
    network = swin().eval()
    torch.save({"params_ema": network.state_dict()}, tmp_path / "x4.pth")
    lr = torch.rand(2, 3, 16, 24)  # whole windows, so that nothing is padded
    found = Spandrel(4, str(tmp_path / "x4.pth"))(lr)
    with torch.no_grad():
        torch.testing.assert_close(found, network(lr).clamp(0, 1), atol=1e-5, rtol=0)
    assert Spandrel(4, str(tmp_path / "x4.pth"))(lr[..., 1:, 3:]).shape == (2, 3, 60, 84)


# ---------------------------------------------------------------------------------------- training


def test_a_file_that_is_fine_tuned(file):
    """Whole batches, with gradients also where the output is beyond [0, 1]."""
    net = Spandrel(2, str(file), train=True)
    lr = 3 * torch.rand(3, 3, 6, 5, generator=torch.Generator().manual_seed(1))
    found = net(lr)
    torch.testing.assert_close(found, computed(lr), atol=1e-5, rtol=0)
    assert found.max() > 1
    found.sum().backward()
    assert all(p.requires_grad and p.grad.abs().sum() > 0 for p in net.parameters())
    assert net.weights_source == str(file)


def test_rcan_keeps_its_input_and_its_mean_colour():
    sizes = {"n_resgroups": 1, "n_resblocks": 1, "n_feats": 16}
    net = Spandrel(2, architecture="RCAN", arguments=sizes)
    lr = torch.rand(1, 3, 6, 5)
    given = lr.clone()
    net(lr).sum().backward()
    assert lr.equal(given)
    fixed = [name for name, parameter in net.named_parameters() if not parameter.requires_grad]
    assert {name.split(".")[1] for name in fixed} == {"sub_mean", "add_mean"}


SMALL = {
    "ESRGAN": {"num_filters": 8, "num_blocks": 1},
    "Compact": {"num_feat": 8, "num_conv": 2},
    "SwinIR": {
        **{"embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 8},
        "upsampler": "pixelshuffledirect",  # without one it restores at x1
    },
    "SPAN": {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8},
    "RealPLKSR": {"dim": 16, "n_blocks": 1},
}


@pytest.mark.parametrize("architecture", SMALL)
def test_an_architecture_trained_from_scratch(architecture, tmp_path):
    """At a size that needs padding; what is trained is read again by spandrel, and is the same."""
    torch.manual_seed(0)
    net = Spandrel(2, train=True, architecture=architecture, arguments=SMALL[architecture])
    assert net.weights_source is None
    lr = torch.rand(2, 3, 17, 21)
    net.train()(lr).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    save_file(
        {k: v.contiguous().clone() for k, v in net.community().items()}, tmp_path / "a.safetensors"
    )
    again = Spandrel(2, str(tmp_path / "a.safetensors"))
    with torch.no_grad():
        expected = net.eval()(lr).clamp(0, 1)
    assert expected.shape == (2, 3, 34, 42)
    torch.testing.assert_close(again(lr), expected, atol=1e-5, rtol=0)
    Spandrel(2, **again.without_path()).load_state_dict(net.state_dict())


def test_published_files_into_an_architecture(tmp_path):
    """ESRGAN's newer names become the older ones that spandrel has."""
    released = random(shapes_of(RRDBNet(4, 8, 1)))
    torch.save({"params_ema": released}, tmp_path / "x4.pth")
    net = Spandrel(4, train=True, architecture="ESRGAN", arguments=SMALL["ESRGAN"])
    net.load_state_dict(net.official(released))
    lr = torch.rand(1, 3, 6, 5)
    with torch.no_grad():
        found = net(lr).clamp(0, 1)
    torch.testing.assert_close(found, Spandrel(4, str(tmp_path / "x4.pth"))(lr))
