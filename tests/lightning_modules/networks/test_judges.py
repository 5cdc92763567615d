"""Discriminators and LPIPS of latents, against their equations and the package."""

from __future__ import annotations

import warnings

import lpips
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close
from torchvision.models.vgg import cfgs, make_layers

from files.weights import fingerprint
from lightning_modules import LatentDiscriminator, LatentLPIPS, PatchGAN, UNetDiscriminator
from lightning_modules.frozen import sources
from lightning_modules.networks.latent_lpips import LatentDistance, from_imagenet
from tests import make

# --------------------------------------------------------------------------------- discriminators


def released_unet_discriminator(width):
    """Random tensors with names and shapes of RealESRGAN_x4plus_netD.pth, of another width."""
    widths = [1, 2, 4, 8, 4, 2, 1, 1, 1]  # of the outputs of conv0 to conv8
    state = {
        "conv0.weight": make.normal(width, 3, 3, 3),
        "conv0.bias": make.normal(width, seed=1),
        "conv9.weight": make.normal(1, width, 3, 3, seed=2),
        "conv9.bias": make.normal(1, seed=3),
    }
    for number in range(1, 9):
        side = 4 if number <= 3 else 3
        inputs = widths[number - 1] * width
        outputs = widths[number] * width
        weight = make.normal(outputs, inputs, side, side, seed=10 + number)
        v = functional.normalize(make.normal(inputs * side**2, seed=20 + number), dim=0)
        state[f"conv{number}.weight_orig"] = weight
        state[f"conv{number}.weight_u"] = functional.normalize(weight.flatten(1) @ v, dim=0)
        state[f"conv{number}.weight_v"] = v
    return state


def papers_figure(state, x):
    """Figure 6 of Real-ESRGAN, with weights divided by their spectral norm u W v."""

    def layer(number, x):
        raw = state[f"conv{number}.weight_orig"]
        norm = state[f"conv{number}.weight_u"] @ raw.flatten(1) @ state[f"conv{number}.weight_v"]
        stride = 2 if number <= 3 else 1
        return functional.leaky_relu(functional.conv2d(x, raw / norm, None, stride, 1), 0.2)

    def twice(x):
        return functional.interpolate(x, scale_factor=2, mode="bilinear")

    x0 = functional.conv2d(x, state["conv0.weight"], state["conv0.bias"], padding=1)
    x0 = functional.leaky_relu(x0, 0.2)
    x1 = layer(1, x0)
    x2 = layer(2, x1)
    x4 = layer(4, twice(layer(3, x2))) + x2
    x5 = layer(5, twice(x4)) + x1
    x6 = layer(6, twice(x5)) + x0
    last = layer(8, layer(7, x6))
    return functional.conv2d(last, state["conv9.weight"], state["conv9.bias"], padding=1)


def test_real_esrgans_released_file_computes_the_papers_figure():
    released = released_unet_discriminator(width=4)
    state = {name: tensor.double() for name, tensor in released.items()}
    network = UNetDiscriminator(width=4).double().eval()
    network.load_state_dict(network.official(state))
    x = make.uniform(2, 3, 16, 24).double()

    (logits,) = network(x)

    assert_close(logits, papers_figure(state, x), rtol=1e-9, atol=1e-9)


def test_invsrs_discriminator_gives_logits_of_the_middle_and_after_each_level_of_the_up_path():
    with torch.device("meta"):
        text = torch.zeros(1, 77, 1024)  # tokens of Stable Diffusion 2.1
        maps = LatentDiscriminator()(torch.zeros(2, 4, 64, 64), t=249, text=text)
    # Of three levels, so that the middle has a quarter of the sides; the first two double them.
    assert [logits.shape[-1] for logits in maps] == [16, 32, 64, 64]


def test_heads_and_norms_of_invsrs_discriminator_are_those_of_the_release():
    """Shapes of tensors do not show them: with others the released file loads, and judges wrongly.

    So a checkpoint names the numbers of heads.
    """
    with torch.device("meta"):
        model = LatentDiscriminator()
    assert {module.heads for module in model.modules() if hasattr(module, "to_q")} == {16}
    assert model.add_embedding.pool.num_heads == 64
    assert model.trained_with == {"heads": 16, "text_heads": 64}
    for name, module in model.named_modules():
        if isinstance(module, nn.GroupNorm):
            assert module.num_groups == 32
            assert module.eps == (1e-6 if ".attentions." in name else 1e-5)


def test_a_logit_of_patchgan_sees_seventy_pixels():
    torch.manual_seed(0)
    network = PatchGAN(width=8, layers=3).eval()
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):  # which sees whole maps
            module.forward = lambda x: x
    images = torch.rand(1, 3, 128, 128, requires_grad=True)

    (logits,) = network(images)
    logits[0, 0, 7, 7].backward()  # in the middle, so that the border cuts nothing off

    assert logits.shape == (1, 1, 14, 14)  # 128 / 2^3, less one by each of the last two layers
    rows = images.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == 70


def test_patchgan_centres_images_at_0():
    network = PatchGAN(width=8, layers=3).eval()
    images = make.uniform(1, 3, 64, 64)
    (logits,) = network(images)
    assert torch.equal(logits, network.network(2 * images - 1))


# --------------------------------------------------------------------------------- LPIPS of latents

SMALL = (4, 6, 8, 8, 8)


def small_distance():
    torch.manual_seed(0)
    model = LatentDistance(widths=SMALL)
    model.keep_positive()
    return model.eval()


def lpips_of_latents():
    """The package's LPIPS, of random weights, changed into the released one of latents."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
        for module in model.net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    first = model.net.slice1[0]
    first.weight = nn.Parameter(first.weight.data[:, :1].repeat(1, 4, 1, 1))
    model.scaling_layer = nn.Identity()
    for stage in (model.net.slice2, model.net.slice3, model.net.slice4):
        pool = next(iter(stage._modules))
        assert isinstance(stage._modules[pool], nn.MaxPool2d)
        stage._modules[pool] = nn.Identity()
    return model


@pytest.mark.slow
@torch.no_grad()
def test_released_weights_of_lpips_of_latents_give_the_packages_distance(tmp_path):
    package = lpips_of_latents()
    state = {f"module.{name}": tensor for name, tensor in package.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "vgg16_sdturbo_lpips.pth")
    model = LatentLPIPS()
    model.load(tmp_path / "vgg16_sdturbo_lpips.pth")
    a, b = make.normal(2, 2, 4, 10, 10)

    distances = model(a, b)

    assert (distances > 0.01).all()
    assert_close(distances, package(a, b).flatten(), rtol=1e-4, atol=1e-6)


def test_the_gradient_of_lpips_is_finite_where_all_features_are_zero():
    """The norm that divides them is a root, which has an infinite slope there."""
    model = small_distance()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.data.fill_(-10.0)  # so that each ReLU gives 0
    a = make.normal(2, 4, 8, 8).requires_grad_()

    model(a, torch.zeros_like(a)).sum().backward()

    assert a.grad.isfinite().all()


def test_lpips_as_a_loss_is_frozen_and_gives_gradients(tmp_path):
    trained = small_distance()
    torch.save(trained.state_dict(), tmp_path / "distance.pth")
    loss = LatentLPIPS(widths=SMALL)
    loss.load(tmp_path / "distance.pth")
    a = make.normal(2, 4, 8, 8).requires_grad_()
    b = make.normal(2, 4, 8, 8, seed=1)

    distance = loss.train()(a, b)
    distance.sum().backward()

    assert torch.equal(distance, trained(a, b))
    assert a.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_the_file_of_lpips_is_among_a_methods_sources(tmp_path):
    """A checkpoint stores them, and cannot be resumed with other weights of a frozen part."""
    state = small_distance().state_dict()
    torch.save(state, tmp_path / "distance.pth")
    method = nn.Module()
    method.perceptual = LatentLPIPS(widths=SMALL)
    method.perceptual.load(tmp_path / "distance.pth")
    assert sources(method)["perceptual"] == f"distance.pth {fingerprint(state)}"


@pytest.mark.filterwarnings("ignore::UserWarning")  # torchvision's, of how lpips calls it
def test_lpips_of_latents_starts_from_vgg16_and_the_packages_weights_of_its_channels(tmp_path):
    """Each channel of a latent gets VGG16's kernel of red, whatever their number."""
    vgg16 = make_layers(cfgs["D"])
    file = {f"features.{name}": tensor for name, tensor in vgg16.state_dict().items()}
    torch.save({**file, "classifier.0.bias": torch.zeros(9)}, tmp_path / "vgg16.pth")
    package = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).state_dict()

    initial = from_imagenet(tmp_path / "vgg16.pth", channels=32)

    LatentDistance(channels=32).load_state_dict(initial)  # refuses other names and shapes
    red = vgg16[0].weight[:, :1]
    assert torch.equal(initial["net.slice1.0.weight"], red.expand(-1, 32, -1, -1))
    assert torch.equal(initial["net.slice1.2.weight"], vgg16[2].weight)  # the second convolution
    for number in range(5):
        name = f"lin{number}.model.1.weight"
        assert torch.equal(initial[name], package[name])
