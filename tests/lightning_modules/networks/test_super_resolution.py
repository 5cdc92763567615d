"""Networks of one pass, and Spandrel, against official programs and published figures."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from torch.testing import assert_close

from degradations.bicubic import resize
from files.weights import read_weights
from lightning_modules.methods.real_esrgan import RealESRGAN
from lightning_modules.methods.regression import Regression
from lightning_modules.networks import edsr, imdn, liif
from lightning_modules.networks.edsr import EDSR, MeanShift
from lightning_modules.networks.imdn import IMDN
from lightning_modules.networks.liif import LIIF, AnySize
from lightning_modules.networks.rrdb import RRDBNet, SRVGGNetCompact
from lightning_modules.networks.spandrel import Spandrel
from lightning_modules.networks.srresnet import MSRResNet
from tests import make
from tests.make import assert_near
from tests.quick import quick
from tests.reference import liif_official


def small_random(network):
    """A state of numbers that keep the outputs in [0, 1], by the network's names."""
    state = make.fill(network).state_dict()
    state = {name: tensor / max(tensor.ndim - 1, 1) for name, tensor in state.items()}
    if "conv_last.bias" in state:  # of RRDBNet, whose outputs would be black: clamped to 0
        state["conv_last.bias"] += 0.5
    return state


# ------------------------------------------------------------------------------------------ EDSR


def conv(state, name, x, padding=1):
    weight = state[f"{name}.weight"]
    return functional.conv2d(x, weight, state[f"{name}.bias"], padding=padding)


def released_edsr(state, levels, scale, blocks, res_scale):
    """The released program, from and to levels (B, 3, h, w) of 0 to 255."""
    head = conv(state, "head.0", conv(state, "sub_mean", levels, padding=0))
    x = head
    for number in range(blocks):
        inner = functional.relu(conv(state, f"body.{number}.body.0", x))
        x = x + res_scale * conv(state, f"body.{number}.body.2", inner)
    x = conv(state, f"body.{blocks}", x) + head
    factors = [3] if scale == 3 else [2] * int(math.log2(scale))
    for number, factor in enumerate(factors):
        x = functional.pixel_shuffle(conv(state, f"tail.0.{2 * number}", x), factor)
    return conv(state, "add_mean", conv(state, "tail.1", x), padding=0)


@pytest.mark.parametrize("scale", [2, 3, 4])
@torch.no_grad()
def test_edsr_is_its_released_program(scale):
    network = make.fill(EDSR(scale, blocks=3, channels=16, res_scale=0.1))
    lr = make.uniform(2, 3, 9, 7)

    sr = network(lr)

    levels = released_edsr(network.state_dict(), lr * 255, scale, blocks=3, res_scale=0.1)
    assert levels.std() > 10  # neither constant
    assert_close(sr, levels / 255, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_untrained_edsr_with_a_skip_is_bicubic():
    lr = make.uniform(1, 3, 12, 9)
    bicubic = functional.interpolate(lr, (24, 18), mode="bicubic", antialias=True)
    assert_near(EDSR(2, blocks=1, channels=8, global_skip=True)(lr), bicubic, 1e-5)


def test_mean_shift_is_exact_under_autocast():
    levels = torch.arange(256.0).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)  # of DIV2K
    with torch.autocast("cpu", torch.bfloat16):
        shifted = MeanShift(-1)(levels)
    assert_close(shifted, levels - 255 * mean)


BASICSR = {  # its names of EDSR with three blocks
    "body.3.": "conv_after_body.",
    ".body.0.": ".conv1.",
    ".body.2.": ".conv2.",
    "head.0.": "conv_first.",
    "tail.0.": "upsample.",
    "tail.1.": "conv_last.",
}


def in_basicsrs_layout(state):
    """The tensors by BasicSR's names, whose files lack the mean colour, a constant."""
    renamed = {}
    for name, tensor in state.items():
        for ours, theirs in BASICSR.items():
            name = name.replace(ours, theirs)
        if not name.startswith(("sub_mean.", "add_mean.")):
            renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("layout", [dict, in_basicsrs_layout], ids=["ours", "BasicSR's"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_edsr_reads_a_file_in_either_layout(scale, layout):
    trained = make.fill(EDSR(scale, blocks=3, channels=8)).state_dict()
    file = layout(trained)

    arguments = edsr.arguments_of(file)
    network = EDSR(**arguments)
    network.load_state_dict(network.official(file))

    assert arguments == {"scale": scale, "blocks": 3, "channels": 8, "res_scale": 1.0}
    assert_close(dict(network.state_dict()), dict(trained), rtol=0, atol=0)


# ------------------------------------------------------------------------------------- MSRResNet


@pytest.mark.parametrize(("scale", "factors"), [(2, [2]), (3, [3]), (4, [2, 2])])
@torch.no_grad()
def test_msrresnet_is_basicsrs_network(scale, factors):
    """Written here from its description, with its names."""
    network = make.fill(MSRResNet(scale, blocks=1, channels=8))
    file = {}
    for name, tensor in network.state_dict().items():
        name = name.replace("body.0.body.0", "body.0.conv1")
        file[name.replace("body.0.body.2", "body.0.conv2")] = tensor
    lr = make.uniform(2, 3, 9, 7)

    x = functional.leaky_relu(conv(file, "conv_first", lr), 0.1)
    x = x + conv(file, "body.0.conv2", conv(file, "body.0.conv1", x).relu())
    for number, factor in enumerate(factors, 1):
        x = functional.pixel_shuffle(conv(file, f"upconv{number}", x), factor)
        x = functional.leaky_relu(x, 0.1)
    x = conv(file, "conv_last", functional.leaky_relu(conv(file, "conv_hr", x), 0.1))
    expected = x + functional.interpolate(lr, scale_factor=scale, mode="bilinear")

    assert_close(network(lr), expected)
    assert_close(network.official(file), dict(network.state_dict()), rtol=0, atol=0)


# ------------------------------------------------------------------------------------------ IMDN

# PSNR-Y on Set5, by scale, without a border of the scale, of outputs in 8 bits; measured with
# another program. The paper prints 38.00, 34.36 and 32.21.
PUBLISHED = [(2, 37.997), (3, 34.362), (4, 32.211)]


def psnr_y(sr, hr, border):
    luma = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64) / 255  # of BT.601
    difference = sr.double() - hr.double()
    error = torch.einsum("c,bchw->bhw", luma, difference)[:, border:-border, border:-border]
    return 10 * math.log10(255**2 / error.square().mean())


@pytest.mark.parametrize(("scale", "psnr"), quick(PUBLISHED, 4))
def test_published_imdn_gives_the_published_psnr(scale, psnr, weights_root, data_root):
    tensors = read_weights(weights_root / f"imdn-x{scale}.pth").tensors
    network = IMDN(**imdn.arguments_of(tensors))
    network.load_state_dict(tensors)

    values = []
    for file in sorted((data_root / "set5" / f"x{scale}" / "lr").glob("*.png")):
        hr = make.read(file.parents[1] / "hr" / file.name)
        with torch.inference_mode():
            sr = network(make.read(file)).clamp(0, 1)
        values.append(psnr_y(sr.mul(255).round(), hr * 255, scale))

    assert len(values) == 5
    assert sum(values) / 5 == pytest.approx(psnr, abs=0.001)


def test_the_gradient_of_imdn_for_a_single_pixel_is_finite():
    """Its contrast, a deviation, is 0, where the slope of a root is infinite."""
    network = IMDN(2, channels=16, blocks=1)
    network(torch.rand(1, 3, 1, 1)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


# ------------------------------------------------------------------------------------------ LIIF


def small_liif(**settings):
    """The perceptron's parameters are doubled, so that each changes the output by about 0.1."""
    torch.manual_seed(0)
    network = LIIF(4.0, blocks=1, channels=8, hidden=(32, 32), **settings)
    for parameter in network.imnet.parameters():
        parameter.data *= 2
    return network


# At borders of LR pixels there are ties, which the official program decides by adding 1e-6.
@pytest.mark.parametrize(
    ("lr_size", "size"),
    [((12, 10), (44, 38)), ((12, 10), (36, 30)), ((12, 10), (6, 5)), ((1, 1), (4, 4))],
    ids=["two fractional factors", "x3, at centres of LR pixels", "x0.5, at borders", "one pixel"],
)
@torch.no_grad()
def test_liif_is_as_its_authors_evaluate_it_at_any_size(lr_size, size):
    network = small_liif()
    lr = make.uniform(2, 3, *lr_size)

    sr = network(lr, size)

    state = network.state_dict()
    features = liif_official.encode(state, lr * 2 - 1)
    points = liif_official.cell_centres(*size).expand(2, -1, 2)
    cell = torch.tensor([2 / size[0], 2 / size[1]]).expand_as(points)
    values = liif_official.query(state, features, points, cell) * 0.5 + 0.5
    expected = values.mT.view(2, 3, *size)
    assert expected.std() > 0.05  # not constant
    assert_near(sr, expected, 1e-5)


@torch.no_grad()
def test_liif_computes_a_limited_number_of_points_at_once(monkeypatch):
    network = small_liif()
    lr = make.uniform(3, 3, 7, 6)
    expected = network(lr, (21, 25))
    monkeypatch.setattr(liif, "CPU_POINTS", 100)
    counts = []
    network.imnet.layers[1].register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))

    assert_near(network(lr, (21, 25)), expected, 1e-6)

    assert max(counts) == 3 * (100 // 3)  # of each of 3 images as many


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_liif_with_a_skip_adds_half_its_perceptrons_output_to_bicubic(bias):
    """Half, as that is in [-1, 1]. Untrained, the last layer is 0, so it is its bias alone."""
    network = LIIF(2.0, blocks=1, channels=8, hidden=(16,), global_skip=True)
    if bias:
        torch.nn.init.constant_(network.imnet.layers[-1].bias, bias)
    lr = make.uniform(2, 3, 9, 7)
    bicubic = resize(lr, (20, 13), clamp=False)
    assert_near(network(lr, (20, 13)), bicubic + bias / 2, 1e-6)


# --------------------------------------------------------------------------------------- any size

SMALL_EDSR = partial(EDSR, blocks=1, channels=8, global_skip=True)


# EDSR has features to encode; of the other network the features are the LR image.
EITHER = pytest.mark.parametrize("network", [SMALL_EDSR, make.Convolution])


@EITHER
@pytest.mark.parametrize("size", [(20, 15), (50, 9)], ids=["shrunk", "enlarged and shrunk"])
def test_the_output_of_a_network_of_x2_is_resized_to_any_size(network, size):
    any_size = make.fill(AnySize(3.5, network, factor=2.0))
    lr = make.uniform(2, 3, 12, 9)  # x2: 24 x 18

    sr = any_size(lr, size)

    assert_close(sr, resize(any_size.network(lr), size, clamp=False))


@EITHER
def test_any_size_renders_from_encoded_features_what_it_gives_at_once(network):
    """CasArbi, whose base it is, encodes LR once and also uses the features itself."""
    any_size = make.fill(AnySize(3.5, network, factor=2.0))
    lr = make.uniform(2, 3, 12, 9)
    features = any_size.encode(lr)
    assert_close(any_size.render(features, lr, (20, 15)), any_size(lr, (20, 15)))


def test_any_size_without_a_size_enlarges_by_the_scale_of_the_experiment():
    any_size = AnySize(3.5, make.Convolution)
    assert any_size(torch.zeros(2, 3, 12, 9)).shape == (2, 3, 42, 32)  # 31.5 columns, rounded


# ------------------------------------------------------------------------- RRDBNet and the compact

RRDB = partial(RRDBNet, channels=8, blocks=2)
COMPACT = partial(SRVGGNetCompact, channels=8, convolutions=3)


@pytest.mark.parametrize(("scale", "network"), [(4, RRDB), (2, RRDB), (2, COMPACT), (3, COMPACT)])
@torch.no_grad()
def test_files_of_the_released_layout_compute_what_spandrel_does(scale, network, tmp_path):
    pytest.importorskip("spandrel")
    torch.save({"params_ema": small_random(network(scale))}, tmp_path / "released.pth")
    lr = make.uniform(2, 3, 12, 16)
    expected = Spandrel(scale, str(tmp_path / "released.pth"))(lr)

    for method in (Regression, RealESRGAN):
        model = method(scale, network=network)
        model.load_weights(tmp_path / "released.pth")
        assert_near(model(lr, (12 * scale, 16 * scale)).clamp(0, 1), expected, 1e-5)


@torch.no_grad()
def test_an_esrgan_file_with_the_names_of_its_first_release_is_read():
    """Which spandrel's class has, such as `model.1.sub.0.RDB1.conv1.0.weight`."""
    module = pytest.importorskip("spandrel.architectures.ESRGAN")
    esrgan = module.ESRGAN(num_filters=8, num_blocks=2, scale=4).eval()
    assert "model.1.sub.0.RDB1.conv1.0.weight" in esrgan.state_dict()
    network = RRDB(4)
    network.load_state_dict(network.official(esrgan.state_dict()))
    lr = torch.rand(1, 3, 6, 5)
    assert_close(network(lr), esrgan(lr))


# -------------------------------------------------------------------------------------- Spandrel

ARCHITECTURES = {
    "ESRGAN": {"num_filters": 8, "num_blocks": 1},
    "Compact": {"num_feat": 8, "num_conv": 2},
    "SwinIR": {
        "embed_dim": 8,
        "depths": [2],
        "num_heads": [2],
        "window_size": 8,
        "upsampler": "pixelshuffledirect",  # without one it restores at x1
    },
    "SPAN": {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8},
    "RealPLKSR": {"dim": 16, "n_blocks": 1},
}


def test_in_training_spandrels_output_is_not_clamped_to_1(tmp_path):
    """Clamped, it would have no gradients where it is brighter."""
    pytest.importorskip("spandrel")
    compact = SRVGGNetCompact(2, channels=8, convolutions=1)
    compact.load_state_dict(small_random(compact))
    torch.save({"params_ema": compact.state_dict()}, tmp_path / "x2.pth")
    network = Spandrel(2, str(tmp_path / "x2.pth"), train=True)
    lr = 3 * make.uniform(3, 3, 6, 5)  # so large that outputs are above 1

    sr = network(lr)
    sr.sum().backward()

    assert_near(sr, compact(lr), 1e-5)
    assert sr.max() > 1
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_the_file_of_a_spandrel_network_is_the_source_of_its_weights(tmp_path):
    """Results are labelled with it."""
    pytest.importorskip("spandrel")
    file = tmp_path / "x4.pth"
    torch.save({"params_ema": small_random(RRDB(4))}, file)
    assert Spandrel(4, str(file)).weights_source == str(file)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_trained_from_scratch_is_exported_to_a_file_of_spandrel(
    architecture, tmp_path
):
    """So that other programs read it; and the file says how to build the network again."""
    pytest.importorskip("spandrel")
    torch.manual_seed(0)
    arguments = ARCHITECTURES[architecture]
    network = Spandrel(2, train=True, architecture=architecture, arguments=arguments)
    lr = make.uniform(2, 3, 17, 21)  # SwinIR's windows of 8 need padding
    network.train()(lr).square().sum().backward()
    assert any(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    for parameter in network.parameters():  # a step, so that no layer is as it began
        parameter.data += 0.01 * torch.randn_like(parameter)
    state = {name: tensor.contiguous().clone() for name, tensor in network.community().items()}
    save_file(state, tmp_path / "a.safetensors")

    exported = Spandrel(2, str(tmp_path / "a.safetensors"))

    with torch.no_grad():
        assert_near(exported(lr), network.eval()(lr).clamp(0, 1), 1e-5)
    built_again = Spandrel(2, **exported.without_path())
    built_again.load_state_dict(network.state_dict())  # refuses other names and shapes


@pytest.mark.parametrize("architecture", ["ATD", "DRCT", "GRL"])
def test_an_architecture_without_upsampler_restores_and_does_not_enlarge(architecture):
    pytest.importorskip("spandrel")
    assert Spandrel(1, architecture=architecture).scale == 1
    with pytest.raises(ValueError, match=r"without .*arguments\.upsampler"):
        Spandrel(2, architecture=architecture)


@torch.no_grad()
def test_an_architecture_starts_from_a_published_file(tmp_path):
    """ESRGAN's newer names become the older ones that spandrel has."""
    pytest.importorskip("spandrel")
    released = small_random(RRDBNet(4, channels=8, blocks=1))
    torch.save({"params_ema": released}, tmp_path / "x4.pth")
    arguments = ARCHITECTURES["ESRGAN"]
    network = Spandrel(4, train=True, architecture="ESRGAN", arguments=arguments)
    network.load_state_dict(network.official(released))
    lr = torch.rand(1, 3, 6, 5)
    assert_close(network(lr).clamp(0, 1), Spandrel(4, str(tmp_path / "x4.pth"))(lr))


def small_rcan():
    pytest.importorskip("spandrel")
    sizes = {"n_resgroups": 1, "n_resblocks": 1, "n_feats": 16}
    return Spandrel(2, architecture="RCAN", arguments=sizes)


def test_spandrel_gives_rcan_a_copy_of_its_input():
    """The package's RCAN multiplies its input by 255 in place."""
    lr = torch.rand(1, 3, 6, 5)
    before = lr.clone()
    small_rcan()(lr)
    assert lr.equal(before)


def test_in_rcan_everything_trains_but_the_mean_colour():
    """Its authors keep it constant."""
    for name, parameter in small_rcan().named_parameters():
        is_mean = name.startswith(("model.sub_mean.", "model.add_mean."))
        assert parameter.requires_grad == (not is_mean), name
