"""Spaces: pixels, autoencoders and bits, there and back."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from files.weights import fingerprint
from lightning_modules.backbone.bitwise import BitwiseSpace
from lightning_modules.backbone.space import KLSpace, PixelSpace, ResShiftVQ, Taef2Space
from lightning_modules.first_stage.autoencoder import Autoencoder
from lightning_modules.networks.autoencoders import BitwiseVAE, vq_from_official
from lightning_modules.networks.bsq import from_bits, published, to_bits, total_after
from lightning_modules.noise import Noise
from tests import make
from tests.lightning_modules.backbone.unets import small_kl
from tests.lightning_modules.networks.test_next_scale import released_vae
from tests.lightning_modules.next_scale_parts import BITS, GRIDS, space
from tests.reference.vqgan import VQGAN

IMAGES = make.uniform(2, 3, 32, 32)
SPACES = {
    "pixels": PixelSpace,
    "KL": lambda: KLSpace(small_kl()),
    "VQ": lambda: ResShiftVQ((32, 64), entries=16),
    "TAEF2": Taef2Space,
    "bits": space,
}


@pytest.mark.parametrize("kind", SPACES)
def test_gradients_pass_through_a_space_whose_weights_are_frozen(kind):
    """As a loss of decoded images needs; `train()` of the method changes no mode of the space."""
    space = SPACES[kind]().train()
    images = IMAGES.clone().requires_grad_()

    z = space.encode(images)
    decoded = space.decode(z)
    decoded.sum().backward()

    assert z.shape == (2, space.channels, 32 // space.factor, 32 // space.factor)
    assert decoded.shape == images.shape
    assert images.grad.abs().sum() > 0
    assert not any(module.training for module in space.modules())
    for parameter in space.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad


def test_sides_must_be_multiples_of_the_factor():
    with pytest.raises(ValueError, match=r"33x32; .* divisible by 2"):
        ResShiftVQ((32, 64), entries=16).encode(torch.zeros(1, 3, 33, 32))


# ------------------------------------------------------------------------------------- KL, TAEF2


def test_kl_is_scaled_as_its_configuration_says():
    vae = small_kl(scaling_factor=0.2, shift_factor=0.5)
    space = KLSpace(vae)
    raw = vae.encode(IMAGES * 2 - 1).latent_dist

    z = space.encode(IMAGES)
    assert_close(z, (raw.mean - 0.5) * 0.2)
    assert_close(space.decode(z), (vae.decode(raw.mean).sample + 1) / 2)

    seeds = torch.tensor([5, 6])
    drawn = raw.mean + raw.std * Noise(seeds).normal(raw.mean.shape)
    assert_close(space.encode(IMAGES, Noise(seeds)), (drawn - 0.5) * 0.2)


def test_latents_are_standardised_by_mean_and_deviation():
    plain = Taef2Space()
    standardised = Taef2Space(mean=[0.5] * 32, deviation=[2.0] * 32)
    standardised.load_state_dict(plain.state_dict())
    z = plain.encode(IMAGES)
    assert_close(standardised.encode(IMAGES), (z - 0.5) / 2)
    assert_close(standardised.decode((z - 0.5) / 2), plain.decode(z))


def kl_with(groups):
    """Weights fit any number of groups, so only the configuration tells it."""
    return KLSpace(dict(small_kl().config) | {"norm_num_groups": groups})


def test_a_run_with_another_number_of_groups_in_its_norms_is_refused(tmp_path):
    run = make.save_run(Autoencoder(1, kl_with(groups=4)), tmp_path / "run.ckpt")
    kl_with(groups=4).load_official(run)
    with pytest.raises(ValueError, match=r"of its space \(norm_num_groups 8, there 4\)"):
        kl_with(groups=8).load_official(run)


def test_the_same_weights_with_another_number_of_groups_are_another_space():
    """So stored latents, which have the identity of their space, are refused for another one."""
    four = kl_with(groups=4)
    eight = kl_with(groups=8)
    eight.load_state_dict(four.state_dict())
    assert eight.identity != four.identity


def test_an_autoencoder_from_a_folder_of_diffusers_encodes_as_the_one_that_was_saved(tmp_path):
    vae = small_kl()
    vae.save_pretrained(tmp_path / "vae")
    space = KLSpace(str(tmp_path), subfolder="vae")
    assert_close(space.encode(IMAGES), KLSpace(vae).encode(IMAGES))
    assert space.source == f"{tmp_path} {fingerprint(vae.state_dict())}"


# ---------------------------------------------------------------------------------------------- VQ


@torch.no_grad()
def test_a_released_vq_computes_what_vqgan_does(tmp_path):
    torch.manual_seed(0)
    official = VQGAN((32, 64, 96), entries=64, latent=3).eval()
    torch.save({"state_dict": official.state_dict()}, tmp_path / "autoencoder.pth")
    space = ResShiftVQ((32, 64, 96), entries=64)
    space.load_official(tmp_path / "autoencoder.pth")

    z = space.encode(IMAGES)

    assert_close(z, official.encode(IMAGES * 2 - 1), rtol=1e-5, atol=1e-5)
    assert_close(space.decode(z), (official.decode(z) + 1) / 2, rtol=1e-5, atol=1e-5)
    assert space.source.startswith("autoencoder.pth ")
    # None of the file is left out.
    assert len(vq_from_official(official.state_dict())) == len(official.state_dict())


# -------------------------------------------------------------------------------------------- bits


@pytest.fixture(scope="module")
def released():
    with torch.device("meta"):
        return BitwiseSpace()


def test_the_default_space_of_bits_is_the_released_one(released):
    """That of NSARM and Infinity-8B: 14 bits for 8x8 pixels, and 2x2 of these in a token."""
    assert released.channels == 14
    assert released.factor == 8
    assert released.bits == 2 * 2 * 14


@pytest.mark.parametrize(("latent", "ratio"), [((128, 128), 1), ((180, 90), 2), ((90, 180), 0.5)])
def test_scales_of_latents_are_the_published_ones_of_their_aspect_ratio(released, latent, ratio):
    """Height over width; latents of 128x128 are 1024x1024 pixels, the others about as many."""
    assert released.scales(latent) == published(ratio, "1M", patch=2)


def test_latents_of_a_size_without_published_scales_are_refused(released):
    with pytest.raises(ValueError, match=r"800x800 pixels has no scales: .* 1024x1024"):
        released.scales((100, 100))  # of factor 8


def test_latents_without_scales_are_coded_by_those_of_a_square_in_proportion():
    scales = space().coded(make.normal(1, BITS, 8, 6))
    # By 8 / 4 and 6 / 4; 1 * 1.5 becomes 2, and 3 * 1.5 becomes 4: halves are rounded to even.
    assert [tuple(scale.code.shape[-2:]) for scale in scales] == [(2, 2), (4, 3), (6, 4), (8, 6)]


def test_decode_quantises_latents_to_the_codes_of_all_scales_and_images_does_not():
    """So `decode(encode(image))` shows the loss of quantisation; transformers sum codes already."""
    bitwise = space()
    z = bitwise.encode(IMAGES)

    scales = bitwise.coded(z)

    codes = [from_bits(to_bits(scale.residual)) for scale in scales]
    assert [tuple(code.shape[-2:]) for code in codes] == GRIDS
    assert torch.equal(bitwise.decode(z), bitwise.images(total_after(codes)))
    assert not torch.allclose(bitwise.decode(z), bitwise.images(z))


def test_a_space_of_bits_loads_released_weights(tmp_path):
    widths = (64, 64, 64, 64)
    _, official = released_vae(widths, BITS)
    torch.save({"vae": official}, tmp_path / "vae.pth")
    bitwise = BitwiseSpace(BitwiseVAE(BITS, widths), GRIDS, patch=1)

    bitwise.load_official(tmp_path / "vae.pth")

    assert bitwise.source.startswith(str(tmp_path / "vae.pth"))
    weight = official["encoder.conv_in.conv.weight"]
    assert torch.equal(bitwise.vae.encoder.conv_in.weight, weight)
