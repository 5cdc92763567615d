"""Spandrel: a tiny checkpoint of Real-ESRGAN's compact network, written and computed here."""

import builtins
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from lightning_modules.networks.spandrel import Spandrel, architectures

spandrel = pytest.importorskip("spandrel", reason="needs the optional package spandrel")


def compact(scale=2, channels=3, width=8):
    """Random tensors of SRVGGNetCompact: conv, PReLU, conv, PReLU, conv, pixel shuffle."""
    source = torch.Generator().manual_seed(0)
    state = {}
    for index, (inputs, outputs) in {
        0: (channels, width),
        2: (width, width),
        4: (width, channels * scale**2),
    }.items():
        state[f"body.{index}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=source) * 0.05
        state[f"body.{index}.bias"] = torch.randn(outputs, generator=source) * 0.05
    for index in (1, 3):
        state[f"body.{index}.weight"] = torch.rand(width, generator=source)
    return state


def computed(state, lr, scale):
    x = lr
    for index in range(5):
        weight = state[f"body.{index}.weight"]
        if index % 2:
            x = functional.prelu(x, weight)
        else:
            x = functional.conv2d(x, weight, state[f"body.{index}.bias"], padding=1)
    up = functional.interpolate(lr, scale_factor=scale, mode="nearest")
    return functional.pixel_shuffle(x, scale) + up


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "compact_x2.pth"
    torch.save({"params_ema": compact(), "params": {}}, path)
    return path


def test_enlarges_as_the_architecture_says(file):
    net = Spandrel(2.0, str(file))
    lr = torch.rand(3, 3, 6, 5, generator=torch.Generator().manual_seed(1))
    expected = computed(compact(), lr, 2).clamp(0, 1)
    found = net(lr)
    assert found.shape == (3, 3, 12, 10)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def rrdb():
    """ESRGAN's and Real-ESRGAN's network, small."""
    from spandrel.architectures.ESRGAN import ESRGAN

    return ESRGAN(num_filters=8, num_blocks=1, scale=4)


def swin():
    """SwinIR's, small; it pads to whole windows."""
    from spandrel.architectures.SwinIR import SwinIR

    sizes = {"embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 8}
    return SwinIR(upscale=4, img_size=64, upsampler="pixelshuffledirect", **sizes)


@pytest.mark.parametrize("make", [rrdb, swin])
def test_networks_of_the_community(tmp_path, make):
    """Made by spandrel's own classes: the file alone says which of them it is."""
    torch.manual_seed(0)
    network = make().eval()
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
    torch.testing.assert_close(found, computed(compact(), lr, 2), atol=1e-5, rtol=0)
    assert found.max() > 1
    found.sum().backward()
    assert all(p.requires_grad and p.grad.abs().sum() > 0 for p in net.parameters())
    assert net.weights_source == str(file)


SMALL = {
    "ESRGAN": {"num_filters": 8, "num_blocks": 1},
    "Compact": {"num_feat": 8, "num_conv": 2},
    "SwinIR": {
        **{"embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 8},
        "upsampler": "pixelshuffledirect",  # without one it restores at x1
    },
    "SPAN": {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8},
    "RealPLKSR": {"dim": 16, "n_blocks": 1},
    "SAFMN": {"dim": 8, "n_blocks": 1},
    "OmniSR": {"num_feat": 8, "res_num": 1, "window_size": 8},
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


def test_published_files_into_an_architecture(tmp_path):
    """ESRGAN's newer names become the older ones that spandrel has."""
    from tests.lightning_modules.networks.test_rrdb import random, released_rrdb

    released = random(released_rrdb(4, 8, 1))
    torch.save({"params_ema": released}, tmp_path / "x4.pth")
    net = Spandrel(4, train=True, architecture="ESRGAN", arguments=SMALL["ESRGAN"])
    net.load_state_dict(net.official(released))
    lr = torch.rand(1, 3, 6, 5)
    with torch.no_grad():
        found = net(lr).clamp(0, 1)
    torch.testing.assert_close(found, Spandrel(4, str(tmp_path / "x4.pth"))(lr))


def test_architectures_by_name():
    assert {"ESRGAN", "SwinIR", "HAT", "SPAN", "DAT", "RealPLKSR"} <= architectures().keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"network\.init_args needs either path or architecture"),
        ({"path": "a", "architecture": "SPAN"}, "needs either path or architecture"),
        ({"path": "a", "arguments": {"a": 1}}, "arguments are for an architecture"),
        ({"architecture": "SPAN"}, "has random weights: set train to true"),
        ({"architecture": "Swin", "train": True}, "is 'Swin'; spandrel has ATD, .*SwinIR"),
        (
            {"architecture": "SPAN", "train": True, "arguments": {"x": 1}},
            "arguments of SPAN: .*'x'",
        ),
        (
            {"architecture": "Compact", "train": True, "arguments": {"upscale": 3}},
            r"enlarges by 3, but data\.init_args\.scale is 2",
        ),
    ],
)
def test_arguments_that_contradict_each_other(settings, message):
    with pytest.raises(ValueError, match=message):
        Spandrel(2, **settings)


def test_safetensors(tmp_path):
    path = tmp_path / "compact_x4.safetensors"
    save_file(compact(scale=4), path)
    assert Spandrel(4, str(path))(torch.rand(1, 3, 6, 5)).shape == (1, 3, 24, 20)


def test_output_may_be_written_to(file):
    with torch.no_grad():
        Spandrel(2, str(file))(torch.rand(1, 3, 4, 4)).clamp_(0, 1)


def test_weights_are_registered_and_not_trained(file):
    net = Spandrel(2, str(file))
    assert len(net.state_dict()) == len(compact())
    assert not any(p.requires_grad for p in net.parameters())
    assert net.to(torch.float64)(torch.rand(1, 3, 4, 4).double()).dtype == torch.float64
    assert net.weights_source == str(file)


def test_environment_variables_in_the_path(file, monkeypatch):
    monkeypatch.setenv("SOME_FOLDER", str(file.parent))
    assert Spandrel(2, f"$SOME_FOLDER/{file.name}").weights_source == str(file)


def test_missing_file():
    with pytest.raises(
        FileNotFoundError, match=r"no file at none\.pth, .*network\.init_args\.path"
    ):
        Spandrel(2, "none.pth")


def test_unset_variable(monkeypatch):
    monkeypatch.delenv("SOME_FOLDER", raising=False)
    with pytest.raises(ValueError, match="environment variable SOME_FOLDER is not set"):
        Spandrel(2, "$SOME_FOLDER/x.pth")


def test_another_scale(file):
    with pytest.raises(ValueError, match=r"enlarges by 2, but data\.init_args\.scale is 4; use 2"):
        Spandrel(4, str(file))


def test_a_model_for_grey_images(tmp_path):
    path = tmp_path / "grey.pth"
    torch.save(compact(channels=1), path)
    with pytest.raises(ValueError, match="from 1 to 1 channels, expected RGB"):
        Spandrel(2, str(path))


def test_a_model_that_needs_a_mask(file, monkeypatch):
    masked = SimpleNamespace(architecture=SimpleNamespace(name="LaMa"))
    monkeypatch.setattr(spandrel.ModelLoader, "load_from_state_dict", lambda *_: masked)
    with pytest.raises(ValueError, match="LaMa for inpainting"):
        Spandrel(2, str(file))


def test_an_unknown_architecture(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"some.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"no architecture that spandrel .* knows"):
        Spandrel(2, str(path))


def test_averages_are_preferred(tmp_path):
    path, old = tmp_path / "w.pth", {k: torch.zeros_like(v) for k, v in compact().items()}
    torch.save({"params": old, "params-ema": compact()}, path)
    lr = torch.rand(1, 3, 6, 5)
    expected = computed(compact(), lr, 2).clamp(0, 1)
    torch.testing.assert_close(Spandrel(2, str(path))(lr), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("change", [torch.Tensor.char, lambda value: value / 0])
def test_no_weights(tmp_path, change):
    tensors = compact()
    tensors["body.2.weight"] = change(tensors["body.2.weight"])
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth has .*body\.2\.weight"):
        Spandrel(2, str(tmp_path / "w.pth"))


class Malicious:
    def __reduce__(self):
        return builtins.exec, ("import sys; sys.was_run = True",)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
def test_code_in_a_file_is_not_run(tmp_path, suffix):
    path = tmp_path / f"bad{suffix}"
    torch.save({**compact(), "extra": Malicious()}, path)
    with pytest.raises(ValueError, match=str(path)):
        Spandrel(2, str(path))
    assert not hasattr(sys, "was_run")


def test_without_the_package(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ImportError, match=r"pip install -c constraints.txt -e '\.\[spandrel\]'"):
        Spandrel(2, str(file))
