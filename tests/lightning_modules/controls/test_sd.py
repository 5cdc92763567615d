"""SD+SR, Stable Diffusion's upscaler, and round trips through a space."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from degradations.bicubic import resize
from degradations.draws import seed_of
from lightning_modules.backbone.space import PixelSpace, Taef2Space
from lightning_modules.controls.direct import Direct
from lightning_modules.controls.sd import SDSR, SDUpscale
from lightning_modules.controls.simple import Bicubic, RoundTrip
from lightning_modules.networks.edsr import EDSR
from lightning_modules.noise import Noise, with_noise_seeds
from lightning_modules.sampling.solvers import Sampler
from lightning_modules.sampling.tiling import padded
from tests import make
from tests.lightning_modules.backbone.unets import base, noted
from tests.lightning_modules.others import save_upscaler
from tests.make import assert_near

# ------------------------------------------------------------------------------------------ SD+SR

NETWORK = partial(EDSR, blocks=1, channels=8)


def sd_sr(upscaler=Bicubic, sampler=Sampler(steps=4), **settings):  # noqa: B008
    return SDSR(2.0, denoiser=base(), upscaler=upscaler, sampler=sampler, **settings).eval()


def images(h=16, w=16):
    return make.batch(2, (h, w), hr=(3, h, w)) | {"text": ["a", "aa"]}


@torch.no_grad()
def test_the_base_runs_at_its_own_size():
    sampler = Sampler(clamp=1.0)
    method = sd_sr(sampler=sampler)
    calls = noted(method)
    batch = images(16, 24)

    sr = method.sample(batch)["sr"]

    assert [call.z.shape for call in calls] == [(2, 3, 8, 12)] * 50
    noise = Noise(with_noise_seeds(batch, method.noise_seed)["seed"]).stream(0)
    direct = Direct(1.0, denoiser=base(), sampler=sampler)
    small = direct.generate({**batch, "size": (8, 12)}, noise).clamp(0, 1)
    assert_close(sr, resize(small, (16, 24)).clamp(0, 1))


class Fourfold(Bicubic):
    """Makes noise of each image's own, and notes what it gets."""

    def restore(self, batch, noise):
        self.got = (batch["lr"].shape, batch["size"], batch["text"])
        return noise.normal((2, 3, *batch["size"])) * 0.1 + 0.5


@torch.no_grad()
def test_the_upscaler_makes_its_own_size_which_is_brought_to_the_outputs():
    """As Stable Diffusion's, which makes 2048 px on the way to 1024."""
    method = sd_sr(Fourfold, upscaler_scale=4.0, base_size=8)
    batch = images()

    sr = method.sample(batch)["sr"]

    assert method.upscaler.got == ((2, 3, 8, 8), (32, 32), batch["text"])
    assert method.output_settings["upscaler_scale"] == 4.0
    assert sr.shape == (2, 3, 16, 16)
    assert torch.equal(sr, method.sample(batch)["sr"])
    assert (sr[0] - sr[1]).abs().max() > 0.01
    method.set_noise_seed(1)
    assert not torch.equal(sr, method.sample(batch)["sr"])


# ------------------------------------------------------------------- Stable Diffusion's upscaler


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_upscaler(tmp_path_factory.mktemp("upscaler"))


def test_it_is_the_pipeline_of_diffusers(folder):
    from diffusers import StableDiffusionUpscalePipeline

    batch = make.batch(2, (32, 48), lr=(3, 8, 12)) | {"text": ["a b", "b"]}

    sr = SDUpscale(4.0, folder, steps=2, guidance=3.0).restore(batch, Noise(batch["seed"]))

    seeds = [seed_of(number, "noise", 0) for number in range(2)]
    expected = StableDiffusionUpscalePipeline.from_pretrained(folder)(
        prompt=batch["text"],
        image=batch["lr"],
        num_inference_steps=2,
        guidance_scale=3.0,
        noise_level=20,
        output_type="pt",
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    )
    assert_close(sr, expected.images)


@pytest.mark.parametrize(("h", "w"), [(9, 14), (3, 12)])
def test_sides_that_the_pipeline_would_cut_are_mirrored_up_to_its_factor(folder, h, w):
    method = SDUpscale(4.0, folder, steps=2, guidance=3.0)
    batch = make.batch(1, (4 * h, 4 * w), lr=(3, h, w))
    mirrored = padded(batch["lr"], 4).lr
    size = (4 * mirrored.shape[-2], 4 * mirrored.shape[-1])

    sr = method.enlarge(batch)["sr"]

    larger = method.enlarge({**batch, "lr": mirrored, "size": size})["sr"]
    assert torch.equal(sr, larger[..., : 4 * h, : 4 * w])


# ------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("of", ["hr", "bicubic"])
def test_a_round_trip_of_hr_or_of_the_enlarged_lr(of):
    batch = make.batch(1, (16, 20), lr=(3, 8, 10), hr=(3, 16, 20))
    expected = batch["hr"] if of == "hr" else resize(batch["lr"], (16, 20))
    sr = RoundTrip(2.0, PixelSpace(), of).restore(batch, Noise(batch["seed"]))
    assert_near(sr, expected, 1e-6)


def test_a_side_that_is_no_multiple_is_padded_by_its_last_pixels_and_cut():
    space = Taef2Space()  # of factor 8
    batch = make.batch(1, (16, 20), lr=(3, 8, 10), hr=(3, 16, 20))
    wide = torch.cat([batch["hr"], batch["hr"][..., -1:].expand(-1, -1, -1, 4)], -1)
    sr = RoundTrip(2.0, space, "hr").restore(batch, Noise(batch["seed"]))
    assert_close(sr, space.decode(space.encode(wide))[..., :20])
