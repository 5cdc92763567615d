"""Losses by hand, by NumPy, and by their definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lightning_modules.one_pass.losses import (
    GAN,
    L1,
    LAYERS,
    LDL,
    Charbonnier,
    Loss,
    VGG19Features,
    VGG19Perceptual,
)
from tests.lightning_modules.vgg19 import save_vgg19


def images(seed: int, side: int = 12, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_differences_of_pixels() -> None:
    sr, hr = torch.tensor([[[[0.5, 1.25]]]]), torch.tensor([[[[0.5, 0.25]]]])
    assert L1()(sr, hr).item() == 0.5
    expected = (0.1 + (1 + 0.01) ** 0.5) / 2
    assert Charbonnier(eps=0.1)(sr, hr).item() == pytest.approx(expected)


def test_equal_images_have_a_gradient_of_0() -> None:
    sr = images(0).requires_grad_()
    LDL()(sr, images(0), images(1)).backward()  # type: ignore[no-untyped-call]
    assert sr.grad is not None
    assert not sr.grad.any()


def test_ldl_is_its_definition() -> None:
    """Pixel by pixel, with NumPy's variance of a mirrored window."""
    sr, hr, averaged = images(0), images(1), images(2)
    total = 0.0
    for one, true, mean in zip(sr.numpy(), hr.numpy(), averaged.numpy(), strict=True):
        r = np.abs(true - one).astype(np.float64).sum(0)
        r_mean = np.abs(true - mean).astype(np.float64).sum(0)
        padded = np.pad(r, 1, mode="reflect")
        for y in range(12):
            for x in range(12):
                local = padded[y : y + 3, x : x + 3].var(ddof=1)
                weight = r.var(ddof=1) ** 0.2 * local if r[y, x] >= r_mean[y, x] else 0.0
                total += weight * np.abs(true - one)[:, y, x].sum()
    found = LDL(window=3)(sr, hr, averaged).item()
    assert found == pytest.approx(total / sr.numel(), rel=1e-4)


def test_ldl_counts_only_where_the_average_is_nearer() -> None:
    sr, hr = images(0), images(1)
    assert LDL()(sr, hr, sr) > 0  # as near counts
    assert LDL()(sr, hr, hr + 5) == 0
    with pytest.raises(ValueError, match=r"add callbacks\.EMA"):
        LDL()(sr, hr)


# ------------------------------------------------------------------------------------ perceptual


def test_vgg19_is_torchvision_s(tmp_path: Path) -> None:
    """Layer by layer, before each ReLU, from the same file."""
    models = pytest.importorskip("torchvision.models")
    path = save_vgg19(tmp_path)
    state = torch.load(path)
    with torch.device("meta"):
        features = models.vgg19(weights=None).features
    own = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features")}
    features.load_state_dict(own, assign=True)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (images(0, 32) - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    expected, stage, number = {}, 1, 0
    with torch.no_grad():
        for layer in features:
            x = layer(x.clone())
            if isinstance(layer, nn.MaxPool2d):
                stage, number = stage + 1, 0
            elif isinstance(layer, nn.Conv2d):
                number += 1
                expected[f"conv{stage}_{number}"] = x.clone()
    loss = VGG19Perceptual()
    loss.load(path)
    assert isinstance(loss.network, VGG19Features)
    found = loss.network(images(0, 32))
    assert found.keys() == LAYERS.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4)


def test_the_weights_of_layers_are_by_name(tmp_path: Path) -> None:
    path = save_vgg19(tmp_path, ("conv1_1", "conv1_2", "conv2_1"))
    parts = []
    for layers in ({"conv1_2": 1.0}, {"conv2_1": 1.0}, {"conv2_1": 0.5, "conv1_2": 3.0}):
        loss = VGG19Perceptual(layers=layers)
        loss.load(path)
        parts.append(loss(images(0), images(1)).item())
    assert parts[2] == pytest.approx(3 * parts[0] + 0.5 * parts[1], rel=1e-5)


def test_the_perceptual_network_is_frozen_and_gives_gradients(tmp_path: Path) -> None:
    loss = VGG19Perceptual(layers={"conv1_2": 1.0})
    with pytest.raises(RuntimeError, match="before `load`"):
        loss(images(0), images(1))
    loss.load(save_vgg19(tmp_path, ("conv1_1", "conv1_2")))
    sr = images(0).requires_grad_()
    loss.train()(sr, images(1)).backward()
    assert sr.grad is not None
    assert sr.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in loss.parameters())
    assert loss.source.startswith(str(tmp_path))


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    path = save_vgg19(tmp_path, ("conv1_1", "conv1_2"))
    before = torch.get_rng_state()
    VGG19Perceptual(layers={"conv1_2": 1.0}).load(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_file_is_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "vgg.pth")
    with pytest.raises(ValueError, match=r"vgg\.pth do not fit the network: 3 missing"):
        VGG19Perceptual(layers={"conv1_2": 1.0}).load(tmp_path / "vgg.pth")


# ----------------------------------------------------------------------------------- adversarial


def test_both_sides_by_hand() -> None:
    real, fake = [torch.tensor([[[[2.0, 0.0]]]])], [torch.tensor([[[[-3.0, 1.0]]]])]

    def softplus(*values: float) -> float:
        return float(np.log1p(np.exp(values)).mean())

    found = {
        kind: (gan.discriminator(real, fake).item(), gan.generator(fake).item())
        for kind, gan in {k: GAN(kind=k) for k in ("vanilla", "hinge", "lsgan")}.items()
    }
    assert found["hinge"] == (0.5 + 1.0, 1.0)
    assert found["lsgan"] == ((1 + 1) / 2 + (9 + 1) / 2, (16 + 0) / 2)
    expected = (softplus(-2, 0) + softplus(-3, 1), softplus(3, -1))
    assert found["vanilla"] == pytest.approx(expected)


def test_maps_of_several_sizes_weigh_the_same() -> None:
    maps = [torch.full((1, 1, 4, 4), 2.0), torch.full((1, 1, 1, 1), -6.0)]
    assert GAN(kind="hinge").generator(maps).item() == 2.0


def test_r1_by_hand() -> None:
    """D is a dot product with a, so that its gradient is a."""
    a = images(3, 4, 1)
    for count in (1, 3):
        x = images(0, 4, count).requires_grad_()
        logits = (a * x).sum((1, 2, 3)).view(-1, 1, 1, 1)
        found = GAN(r1=10.0).penalty([logits], x)
        assert found.item() == pytest.approx(5 * a.square().sum().item(), rel=1e-5)


def test_r1_has_gradients_for_the_discriminator() -> None:
    layer, x = nn.Conv2d(3, 1, 3), images(0).requires_grad_()
    GAN(r1=1.0).penalty([layer(x)], x).backward()  # type: ignore[no-untyped-call]
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L1(weight=-1.0), "L1 has weight -1 and start 0"),
        (lambda: LDL(start=-5), "LDL has weight 1 and start -5"),
        (lambda: LDL(window=4), "window of LDL is 4; expected an odd number from 3"),
        (lambda: Charbonnier(eps=0.0), "eps of Charbonnier is 0"),
        (
            lambda: VGG19Perceptual(layers={"conv6_1": 1.0}),
            "expected weights of layers among conv1",
        ),
        (lambda: VGG19Perceptual(layers={}), "layers of VGG19Perceptual is {}"),
        (lambda: GAN(kind="wgan"), "kind 'wgan' and r1 0; expected vanilla, hinge, lsgan"),  # type: ignore[arg-type]
        (lambda: GAN(weight=float("nan")), r"model\.init_args\.gan has weight nan"),
        (lambda: GAN(r1=-1.0), "r1 -1; expected"),
    ],
)
def test_values_out_of_range(make: type[Loss], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
