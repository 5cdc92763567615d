"""Self-Cascade of clips: as of images where frames are independent, and what is distinguished."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_modules.backbone.library import Flags
from lightning_modules.methods.self_cascade import SelfCascade
from lightning_modules.networks.feature_upsampler import Full
from lightning_modules.noise import Noise
from tests.lightning_modules.backbone.unets import wrapped
from tests.lightning_modules.methods.test_self_cascade import grouped, tuned
from tests.lightning_modules.tiny import random_batch

FRAMES = 3
TEMPORAL = ("transformer_in", "temp_convs", "temp_attentions")  # of the network
LAST = ("proj_out", "conv4.3")  # after which these are 0


def base(kind: str = "video", **changes: Any) -> Any:
    denoiser = wrapped(kind, null="learned", flags=Flags(frozen=True), **changes)
    denoiser.source = "base.ckpt 0123456789abcdef"
    return denoiser


def cascade(method: Any = SelfCascade, scale: float = 2.0, **settings: Any) -> Any:
    torch.manual_seed(0)
    given = {"denoiser": base(), **grouped(settings)}
    made: Any = method(scale, **given)
    made.log = lambda *_, **__: None
    return made.eval()


def batch(count: int = 2, side: int = 16, frames: int = FRAMES) -> Any:
    clips = random_batch(count, (side, side), clip=(frames, 3, side, side))
    return {**clips, "frames": frames}


def without_time(denoiser: Any) -> Any:
    """Temporal layers, all of which are residual, add nothing."""
    found = 0
    for name, parameter in denoiser.unet.named_parameters():
        part = name.rpartition(".")[0]
        if any(layer in name for layer in TEMPORAL) and part.endswith(LAST):
            parameter.data.zero_()
            found += 1
    assert found
    return denoiser


def in_space(video: Any) -> Any:
    """The network of images with the spatial layers of that of clips."""
    heads = {"attention_head_dim": video.unet.config.attention_head_dim}
    flat = base("image", use_linear_projection=True, **heads)
    own = {k: v for k, v in video.unet.state_dict().items() if not any(x in k for x in TEMPORAL)}
    flat.unet.load_state_dict(own)
    return flat


class Given(Noise):
    """Fields of clips, frame by frame."""

    def __init__(self, of: Noise, frame: int) -> None:
        super().__init__(torch.tensor(of.seeds))
        self.of, self.frame = of, frame

    def stream(self, name: str | int) -> Noise:
        return Given(self.of.stream(name), self.frame)

    def normal(self, shape: Any) -> Any:
        B, C, h, w = shape
        return self.of.normal((B, C, FRAMES, h, w))[:, :, self.frame]


@pytest.mark.slow
@pytest.mark.parametrize("upsampler", [None, Full])
@torch.no_grad()
def test_without_temporal_layers_it_is_that_of_images(upsampler):
    """Noise is one field a clip; all else is frame by frame, phi's timestep too."""
    video = without_time(base())
    settings = {"upsampler": upsampler, "scale": 4.0}
    clips, images = (cascade(denoiser=d, **settings) for d in (video, in_space(video)))
    if upsampler is not None:
        tuned(clips)
        images.upsampler.load_state_dict(clips.upsampler.state_dict())
    given = batch(side=32)
    made = clips.generate(given, Noise(given["seed"]))
    assert made.shape == (2, FRAMES, 3, 32, 32)
    one = {k: v for k, v in given.items() if k != "frames"}
    for frame in range(FRAMES):
        expected = images.generate(one, Given(Noise(given["seed"]), frame))
        torch.testing.assert_close(made[:, frame], expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_frames_know_of_each_other():
    method, given = cascade(), batch()
    made = method.generate(given, Noise(given["seed"]))
    without = cascade(denoiser=without_time(base())).generate(given, Noise(given["seed"]))
    assert (made - without).abs().max() > 1e-3
