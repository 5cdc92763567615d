"""Self-Cascade of clips: as of images where frames are independent, and what is distinguished."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional

from lightning_modules.backbone.library import Flags
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.backbone.space import KLSpace
from lightning_modules.controls.direct import Direct
from lightning_modules.networks.feature_upsampler import Full, Shared
from lightning_modules.noise import Noise
from lightning_modules.sampling.solvers import Sampler
from lightning_modules.self_cascade import SelfCascade
from tests.lightning_modules.backbone.unets import small_kl, wrapped
from tests.lightning_modules.test_self_cascade import noted, oracle, tuned
from tests.quick import quick

FRAMES = 3
TEMPORAL = ("transformer_in", "temp_convs", "temp_attentions")  # of the network
LAST = ("proj_out", "conv4.3")  # after which these are 0


def base(kind: str = "video", **changes: Any) -> Any:
    denoiser = wrapped(kind, null="learned", flags=Flags(frozen=True), **changes)
    denoiser.source = "base.ckpt 0123456789abcdef"
    return denoiser


def cascade(method: Any = SelfCascade, scale: float = 2.0, **settings: Any) -> Any:
    torch.manual_seed(0)
    given = {"denoiser": base(), "sampler": Sampler(steps=4), **settings}
    made: Any = method(scale, **given)
    made.log = lambda *_, **__: None
    return made.eval()


def batch(count: int = 2, side: int = 16, frames: int = FRAMES) -> Any:
    generator = torch.Generator().manual_seed(0)
    return {
        "key": [str(n) for n in range(count)],
        "seed": torch.arange(count),
        "clip": torch.rand(count, frames, 3, side, side, generator=generator),
        "size": (side, side),
        "frames": frames,
    }


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
@pytest.mark.parametrize("upsampler", [None, partial(Full, gated=True)])
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


@pytest.mark.parametrize(
    ("name", "attach"),
    quick([("shared", "skip"), ("gated", "block_out")], "shared"),
)
@torch.no_grad()
def test_untrained_it_is_the_tuning_free_variant(name, attach):
    kinds: dict[str, Any] = {"shared": Shared, "gated": partial(Full, gated=True)}
    given = batch()
    free = cascade().generate(given, Noise(given["seed"]))
    kind = kinds[name]
    method = cascade(upsampler=kind, attach=attach)
    assert torch.equal(method.generate(given, Noise(given["seed"])), free)
    assert (tuned(method).generate(given, Noise(given["seed"])) - free).abs().max() > 1e-4


def test_as_many_parameters_as_for_images():
    """Frames are folded, so the same phi serves: 1,932 at any four places."""
    method = cascade(upsampler=Shared)
    assert list(method.attachment.widths) == ["skip0", "skip1", "skip2", "skip3"]
    assert sum(p.numel() for p in method.parameters() if p.requires_grad) == 1_932


@pytest.mark.slow
@torch.no_grad()
def test_calls_of_the_base():
    method = cascade(upsampler=Shared, sampler=Sampler())
    calls, given = noted(method), batch()
    method.generate(given, Noise(given["seed"]))
    shapes = [(call.kind, tuple(call.z.shape[2:])) for call in calls]
    assert shapes == (
        [("forward", (FRAMES, 8, 8))] * 50
        + [("features", (FRAMES, 8, 8))]
        + [("forward", (FRAMES, 16, 16))] * 35
    )


@torch.no_grad()
def test_an_oracle_is_believed():
    method = cascade(scale=4.0, schedule=Schedule(prediction="v_prediction"))
    given = batch(side=32)
    answer = given["clip"].transpose(1, 2) * 2 - 1

    def small(shape: Any) -> Any:
        return functional.adaptive_avg_pool3d(answer, (FRAMES, *shape[-2:]))

    oracle(method, small)
    found = method.generate(given, Noise(given["seed"]))
    torch.testing.assert_close(found, given["clip"], rtol=0, atol=1e-4)


@torch.no_grad()
def test_in_latents_a_clip_is_its_own():
    four = base(in_channels=4, out_channels=4)
    settings = {"space": KLSpace(small_kl()), "pivot_space": "rgb", "upsampler": Shared}
    method = tuned(cascade(denoiser=four, **settings))
    given = batch()
    both = method.sample(given)["sr"]
    assert both.shape == (2, FRAMES, 3, 16, 16)
    one = {"key": ["1"], "seed": given["seed"][1:], "size": (16, 16), "frames": FRAMES}
    torch.testing.assert_close(method.sample(one)["sr"], both[1:], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_training():
    """Gradients reach phi; what is learned makes the loss smaller."""
    method = cascade(upsampler=Shared)
    optimizer, losses = torch.optim.Adam(method.upsampler.parameters(), 0.02), []
    for _ in range(25):
        torch.manual_seed(1)
        loss = method.training_step(batch(), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]
    assert method.trained_ratio == 2.0


@torch.no_grad()
def test_direct_inference():
    method, given = cascade(Direct), batch()
    drawn = []
    method.denoiser.register_forward_pre_hook(lambda _, args: drawn.append(args[0]))
    assert method.sample(given)["sr"].shape == (2, FRAMES, 3, 16, 16)
    assert [tuple(z.shape) for z in drawn] == [(2, 3, FRAMES, 16, 16)] * 4


def test_images_are_refused():
    given: Any = {k: v for k, v in batch().items() if k not in ("clip", "frames")}
    for method in (cascade(), cascade(Direct)):
        with pytest.raises(ValueError, match="makes clips, and 0 is an image: use"):
            method.sample(given)
    with pytest.raises(ValueError, match="makes clips, and 0 is an image"):
        cascade(upsampler=Shared).training_step({**given, "hr": batch()["clip"][:, 0]}, 0)
    with pytest.raises(ValueError, match="a UNet2D, makes images, and 0 is a clip"):
        cascade(denoiser=base("image")).sample(batch())
