"""SD+SR, Stable Diffusion's upscaler, and round trips through a space."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from degradations.bicubic import resize
from degradations.draws import seed_of
from lightning_modules import SDSR, Bicubic, Direct, PixelSpace, RoundTrip, SDUpscale, Taef2Space
from lightning_modules.noise import Noise, with_noise_seeds
from lightning_modules.sampling.solvers import Sampler
from lightning_modules.sampling.tiling import padded
from tests import make
from tests.lightning_modules.backbone.unets import base, noted
from tests.lightning_modules.others import save_upscaler
from tests.make import assert_near

# ------------------------------------------------------------------------------------------ SD+SR


def images(h=16, w=16):
    return make.batch(2, (h, w), hr=(3, h, w)) | {"text": ["a", "aa"]}


@torch.no_grad()
def test_the_base_generates_at_its_own_size_and_the_upscaler_enlarges():
    sampler = Sampler(steps=4, clamp=1.0)
    method = SDSR(2.0, denoiser=base(), upscaler=Bicubic, sampler=sampler).eval()
    calls = noted(method)
    batch = images(16, 24)

    sr = method.sample(batch)["sr"]

    assert [call.z.shape for call in calls] == [(2, 3, 8, 12)] * 4
    seeds = with_noise_seeds(batch, method.noise_seed)["seed"]
    noise = Noise(seeds).stream(0)  # the base's, apart from the upscaler's
    direct = Direct(1.0, denoiser=base(), sampler=sampler)
    small = direct.generate(batch | {"size": (8, 12)}, noise).clamp(0, 1)
    assert_close(sr, resize(small, (16, 24)).clamp(0, 1))


class Fourfold(Bicubic):
    """Makes noise of each image's own; notes what it gets and makes."""

    def restore(self, batch, noise):
        self.got = (batch["lr"].shape, batch["size"], batch["text"])
        self.made = noise.normal((2, 3, *batch["size"])) * 0.1 + 0.5
        return self.made


@pytest.fixture
def fourfold():
    """An upscaler of x4 from 8 to 32 px in a method of 8 to 16 px."""
    settings = {"denoiser": base(), "sampler": Sampler(steps=4), "base_size": 8}
    return SDSR(2.0, upscaler=Fourfold, upscaler_scale=4.0, **settings).eval()


def test_an_upscaler_of_a_larger_scale_is_followed_by_resizing(fourfold):
    """As Stable Diffusion's, which makes 2048 px on the way to 1024."""
    batch = images()
    sr = fourfold.sample(batch)["sr"]
    assert fourfold.upscaler.got == ((2, 3, 8, 8), (32, 32), batch["text"])
    assert_close(sr, resize(fourfold.upscaler.made.clamp(0, 1), (16, 16)))


def test_results_are_labelled_with_an_upscalers_own_scale(fourfold):
    """By which outputs of the same weights differ."""
    assert fourfold.output_settings["upscaler_scale"] == 4.0


def test_the_upscalers_noise_follows_from_the_image_and_the_runs_seed(fourfold):
    batch = images()
    sr = fourfold.sample(batch)["sr"]
    assert torch.equal(sr, fourfold.sample(batch)["sr"])
    assert (sr[0] - sr[1]).abs().max() > 0.01
    fourfold.set_noise_seed(1)
    assert not torch.equal(sr, fourfold.sample(batch)["sr"])


# ------------------------------------------------------------------- Stable Diffusion's upscaler


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_upscaler(tmp_path_factory.mktemp("upscaler"))


def test_the_upscaler_is_the_pipeline_of_diffusers(folder):
    from diffusers import StableDiffusionUpscalePipeline

    batch = make.lr_batch(8, 12, 4, count=2) | {"text": ["a b", "b"]}

    sr = SDUpscale(4.0, folder, steps=2, guidance=3.0).restore(batch, Noise(batch["seed"]))

    seeds = [seed_of(number, "noise", 0) for number in range(2)]
    expected = StableDiffusionUpscalePipeline.from_pretrained(folder)(
        prompt=batch["text"],
        image=batch["lr"],
        num_inference_steps=2,
        guidance_scale=3.0,
        noise_level=20,  # the pipeline's default, and ours
        output_type="pt",
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    )
    assert_close(sr, expected.images)


@pytest.mark.parametrize(("h", "w"), [(9, 14), (3, 12)])
def test_sides_are_mirrored_up_to_multiples_of_4_and_cut_back(folder, h, w):
    """The pipeline would cut off the rest."""
    method = SDUpscale(4.0, folder, steps=2, guidance=3.0)
    batch = make.lr_batch(h, w, 4)
    mirrored = padded(batch["lr"], multiple=4).lr
    size = (4 * mirrored.shape[-2], 4 * mirrored.shape[-1])

    sr = method.enlarge(batch)["sr"]

    larger = method.enlarge(batch | {"lr": mirrored, "size": size})["sr"]
    assert torch.equal(sr, larger[..., : 4 * h, : 4 * w])


# ------------------------------------------------------------------------------------ round trips


def test_a_round_trip_is_of_hr_or_of_the_enlarged_lr():
    """No method in an autoencoder's latents exceeds its round trip of HR, which so is a bound.

    Pixels are a space that changes nothing.
    """
    batch = make.pairs((8, 10), scale=2)
    noise = Noise(batch["seed"])
    of_hr = RoundTrip(2.0, PixelSpace(), "hr").restore(batch, noise)
    of_lr = RoundTrip(2.0, PixelSpace(), "bicubic").restore(batch, noise)
    assert_near(of_hr, batch["hr"], 1e-6)
    assert_near(of_lr, resize(batch["lr"], (16, 20)), 1e-6)


def test_a_side_that_is_no_multiple_of_the_factor_is_padded_by_its_last_pixels_and_cut_back():
    space = Taef2Space()
    assert space.factor == 8
    batch = make.pairs((8, 10), scale=2)
    last = batch["hr"][..., -1:].expand(-1, -1, -1, 4)  # HR is 16 x 20, and becomes 16 x 24
    padded_hr = torch.cat([batch["hr"], last], -1)
    sr = RoundTrip(2.0, space, "hr").restore(batch, Noise(batch["seed"]))
    assert_close(sr, space.decode(space.encode(padded_hr))[..., :20])
