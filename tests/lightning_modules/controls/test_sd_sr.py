"""SD+SR: the base at its own size, then a network that enlarges."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from degradations.bicubic import resize
from lightning_modules.controls.sd import SDSR
from lightning_modules.controls.simple import Bicubic
from lightning_modules.methods.regression import Regression
from lightning_modules.methods.resshift import ResShift
from lightning_modules.networks.edsr import EDSR
from lightning_modules.networks.swin_unet import SwinUNet
from lightning_modules.noise import Noise, with_noise_seeds
from lightning_modules.sampling.solvers import Sampler
from tests.lightning_modules.controls.test_direct import direct
from tests.lightning_modules.methods.test_resshift import SMALL, small_vq
from tests.lightning_modules.methods.test_self_cascade import (
    base,
    batch,
    noted,
    sampled,
)
from tests.lightning_modules.tiny import save_run

NETWORK = partial(EDSR, blocks=1, channels=8)


def sd_sr(scale: float = 2.0, **settings: Any) -> Any:
    torch.manual_seed(0)
    given = {"denoiser": base(), "upscaler": Bicubic, **sampled(settings)}
    return SDSR(scale, **given).eval()


def trained(folder: Any) -> Any:
    """Weights of an upscaler that is none of those that `sd_sr` begins with."""
    torch.manual_seed(5)
    network = Regression(2.0, NETWORK)
    path = save_run(network, folder / "sr.ckpt")
    return network.eval(), path


@torch.no_grad()
def test_all_steps_are_at_the_bases_size():
    method = sd_sr(sampler=Sampler(), clamp=1.0)
    calls = noted(method)
    given = batch((16, 24))
    enlarged = method.sample(given)["sr"]
    assert [call.z.shape for call in calls] == [(2, 3, 8, 12)] * 50
    small = {**given, "size": (8, 12)}
    noise = Noise(with_noise_seeds(given, method.noise_seed)["seed"]).stream(0)
    expected = direct(1.0, sampler=Sampler(), clamp=1.0).generate(small, noise).clamp(0, 1)
    torch.testing.assert_close(enlarged, resize(expected, (16, 24)).clamp(0, 1))


@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_the_upscaler_makes_its_size_which_is_brought_to_the_outputs(seed):
    """As Stable Diffusion's, which makes 2048 px on the way to 1024."""
    seen = []

    class Fourfold(Bicubic):
        def restore(self, batch: Any, noise: Any) -> Any:
            seen.append((tuple(batch["lr"].shape), batch["size"], batch["text"]))
            return noise.normal((2, 3, *batch["size"])) * 0.1 + 0.5

    method = sd_sr(upscaler=Fourfold, upscaler_scale=4.0, base_size=8)
    method.set_noise_seed(seed)
    given = batch((16, 16))
    both = method.sample(given)["sr"]
    assert seen == [((2, 3, 8, 8), (32, 32), given["text"])]
    assert method.upscaler.scale == 4.0
    assert both.shape == (2, 3, 16, 16)
    assert method.output_settings["upscaler_scale"] == 4.0
    assert torch.equal(both, method.sample(given)["sr"])
    assert (both[0] - both[1]).abs().max() > 0.01  # each image has noise of its own


@torch.no_grad()
def test_a_trained_upscaler(tmp_path):
    network, path = trained(tmp_path)
    settings = {"upscaler": partial(Regression, network=NETWORK), "upscaler_weights": "runs/sr"}
    method = sd_sr(**settings)
    assert not any(parameter.requires_grad for parameter in method.parameters())
    with pytest.raises(ValueError, match=r"upscaler, Regression, has random weights: set .*_weig"):
        sd_sr(upscaler=settings["upscaler"]).setup("test")
    asked = []

    def find(key: str, name: str) -> Any:
        asked.append((key, name))
        return path

    method.load_parts(find)
    method.setup("test")
    assert asked == [("upscaler_weights", "runs/sr")]
    assert method.output_settings["upscaler"].startswith("Regression ")
    method.train()
    assert not method.upscaler.training
    given = batch()
    lr = torch.rand(2, 3, 8, 8)
    assert torch.equal(
        method.upscaler.enlarge({**given, "lr": lr})["sr"], network(lr, 0).clamp(0, 1)
    )


def test_the_upscaler_is_checked_as_it_is_alone():
    method = sd_sr(upscaler=lambda scale: ResShift(scale, SwinUNet(**SMALL), small_vq()))
    assert not method.half_outputs
    method.upscaler.weights_source = "network.pth"  # without the autoencoder's
    with pytest.raises(ValueError, match=r"the space of ResShift has random weights"):
        method.setup("test")
