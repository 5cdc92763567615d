"""Spaces: pixels and autoencoders, there and back."""

from __future__ import annotations

import pytest
import torch

from files.weights import fingerprint
from lightning_modules.backbone.space import (
    KLSpace,
    PCASpace,
    PixelSpace,
    ResShiftVQ,
    Taef2Space,
)
from lightning_modules.first_stage.autoencoder import Autoencoder
from lightning_modules.networks.autoencoders import vq_from_official
from lightning_modules.noise import Noise
from tests.lightning_modules.backbone.unets import small_kl
from tests.lightning_modules.tiny import save_run
from tests.reference.vqgan import VQGAN


def image(count=2, side=32):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def spaces():
    return {
        "pixel": PixelSpace(),
        "kl": KLSpace(small_kl()),
        "vq": ResShiftVQ((32, 64), entries=16),
        "taef2": Taef2Space(),
    }


@pytest.mark.parametrize("kind", ["pixel", "kl", "vq", "taef2"])
def test_shapes_and_frozen(kind):
    space = spaces()[kind].train()
    x = image().requires_grad_()
    z = space.encode(x)
    assert z.shape == (2, space.channels, 32 // space.factor, 32 // space.factor)
    y = space.decode(z)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.abs().sum() > 0  # gradients pass through, and stop at no weight
    assert all(not p.requires_grad and p.grad is None for p in space.parameters())
    assert not any(module.training for module in space.modules())
    if space.factor > 1:
        with pytest.raises(ValueError, match=rf"33x32; .* divisible by {space.factor}"):
            space.encode(torch.zeros(1, 3, 33, 32))


def test_pixels():
    x = image()
    assert PixelSpace().encode(x).min() < 0
    torch.testing.assert_close(PixelSpace().decode(PixelSpace().encode(x)), x)


def test_kl_is_scaled_as_its_configuration_says():
    vae = small_kl(scaling_factor=0.2, shift_factor=0.5)
    space, x = KLSpace(vae), image()
    raw = vae.encode(x * 2 - 1).latent_dist
    torch.testing.assert_close(space.encode(x), (raw.mean - 0.5) * 0.2)
    torch.testing.assert_close(space.decode(space.encode(x)), (vae.decode(raw.mean).sample + 1) / 2)

    seeds = torch.tensor([5, 6])
    drawn = space.encode(x, Noise(seeds))
    fields = Noise(seeds).normal(raw.mean.shape)
    torch.testing.assert_close(drawn, (raw.mean + raw.std * fields - 0.5) * 0.2)


def test_a_deviation_of_each_channel():
    plain, divided = PCASpace(), PCASpace(deviation=[2.0] * 12)
    divided.load_state_dict(plain.state_dict())
    torch.testing.assert_close(divided.encode(image()), plain.encode(image()) / 2)
    torch.testing.assert_close(
        divided.decode(divided.encode(image())), plain.decode(plain.encode(image()))
    )


def test_a_run_with_other_groups_of_norms_is_refused(tmp_path):
    """Their number is in the shape of no tensor; latents of it are others, too."""
    config = dict(small_kl().config) | {"scaling_factor": 1.0}
    run = save_run(Autoencoder(1, KLSpace(config)), tmp_path / "run.ckpt")
    same = KLSpace(config | {"scaling_factor": 0.2})
    same.load_official(run)
    other = KLSpace(config | {"norm_num_groups": 8})
    with pytest.raises(ValueError, match=r"of its space \(norm_num_groups 8, there 4\)"):
        other.load_official(run)
    other.load_state_dict(same.state_dict())
    assert other.identity != same.identity
    assert other.settings["norm_num_groups"] == 8


def test_from_pretrained(tmp_path):
    vae = small_kl()
    vae.save_pretrained(tmp_path / "vae")
    space = KLSpace(str(tmp_path), subfolder="vae")
    torch.testing.assert_close(space.encode(image()), KLSpace(vae).encode(image()))
    assert space.source == f"{tmp_path} {fingerprint(vae.state_dict())}"


def test_standardised():
    space = Taef2Space(mean=[0.5] * 32, deviation=[2.0] * 32)
    plain = Taef2Space()
    plain.load_state_dict(space.state_dict())
    torch.testing.assert_close(space.encode(image()), (plain.encode(image()) - 0.5) / 2)
    z = plain.encode(image())
    torch.testing.assert_close(space.decode((z - 0.5) / 2), plain.decode(z))


# --------------------------------------------------------------------------------------------- VQ


@torch.no_grad()
def test_the_released_layout_gives_the_same_numbers(tmp_path):
    torch.manual_seed(0)
    official = VQGAN((32, 64, 96), entries=64, latent=3).eval()
    torch.save({"state_dict": official.state_dict()}, tmp_path / "autoencoder.pth")
    space = ResShiftVQ((32, 64, 96), entries=64)
    space.load_official(tmp_path / "autoencoder.pth")
    x = image()
    z = official.encode(x * 2 - 1)
    torch.testing.assert_close(space.encode(x), z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(space.decode(z), (official.decode(z) + 1) / 2, rtol=1e-5, atol=1e-5)
    assert space.source.startswith("autoencoder.pth ")
    assert len(vq_from_official(official.state_dict())) == len(official.state_dict())
