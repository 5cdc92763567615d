"""Direct inference: all steps at the target's size, on a base that stays as it is."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.library import Flags
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.backbone.space import KLSpace, PixelSpace, Space
from lightning_modules.controls.direct import Direct
from lightning_modules.methods.diffusion import Diffusion
from lightning_modules.noise import Noise
from lightning_modules.sampling.solvers import Sampler
from tests.lightning_modules.backbone.unets import bare, small_kl, wrapped
from tests.lightning_modules.methods.test_self_cascade import (
    base,
    batch,
    noted,
    sampled,
)
from tests.lightning_modules.tiny import save_run


def direct(scale: float = 2.0, **settings: Any) -> Any:
    torch.manual_seed(0)
    return Direct(scale, **{"denoiser": base(), **sampled(settings)}).eval()


@torch.no_grad()
def test_all_steps_at_the_outputs_size():
    method = direct(sampler=Sampler())
    calls = noted(method)
    given = batch()
    method.generate(given, Noise(given["seed"]))
    assert [call.z.shape for call in calls] == [(2, 3, 16, 16)] * 50
    assert [int(call.t[0]) for call in calls] == list(range(981, 0, -20))


def test_nothing_is_trained():
    method = direct()
    assert not any(parameter.requires_grad for parameter in method.parameters())
    assert not method.needs_weights
    assert method.weights_source == "base.ckpt 0123456789abcdef"
    method.setup("test")
    method.denoiser.source = ""
    with pytest.raises(ValueError, match=r"a trained base is required"):
        method.setup("test")


def run_of_a_base(path: Path, space: Space | None = None, **settings: Any) -> Path:
    channels = {"in_channels": 4, "out_channels": 4} if isinstance(space, KLSpace) else {}
    run = Diffusion(1.0, wrapped(null="learned", **channels), space=space, **settings)
    return save_run(run, path / "base.ckpt")


COSINE: Any = {"betas": "squaredcos_cap_v2", "prediction": "v_prediction"}


@pytest.mark.parametrize(
    ("settings", "here", "message"),
    [
        ({}, {}, None),
        ({"schedule": Schedule(**COSINE)}, {"schedule": Schedule(**COSINE)}, None),
        ({}, {"schedule": Schedule(variance="exploding")}, None),  # the same process
        (
            {"schedule": Schedule(**COSINE)},
            {},
            "there squared.*; prediction epsilon, there v_pred",
        ),
        (
            {"schedule": Schedule(beta_end=0.02)},
            {},
            r"beta_end 0\.012, there 0\.02\): set",
        ),
        ({"space": PixelSpace(deviation=[0.5])}, {}, r"deviation \[1\.0\], there \[0\.5\]\): set"),
        ({"timesteps": (0, 300)}, {}, r"timesteps 0 to 299, counted from 0, and 751 to 1 are"),
        ({"timesteps": (100, 1000)}, {}, r"timesteps 100 to 999, .* 751 to 1 are used"),
    ],
)
def test_a_base_is_used_as_its_run_was(settings, here, message, tmp_path):
    """Anything else would make noise without a word."""
    file = run_of_a_base(tmp_path, **settings)
    method = direct(denoiser_weights="runs/base", **here)
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        method.load_parts(lambda *_: file)
        method.setup("test")


@pytest.mark.parametrize(("prediction", "fits"), [("epsilon", True), ("v_prediction", False)])
def test_the_scheduler_beside_a_base_is_compared(prediction, fits, tmp_path):
    """As of Stable Diffusion 2.1 of 768 px, which predicts v: its images would be noise."""
    bare().save_pretrained(tmp_path / "unet")
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    (tmp_path / "scheduler").mkdir()
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**config, "prediction_type": prediction}))
    denoiser = UNet2D(str(tmp_path), null_token="zero", flags=Flags(frozen=True))
    for method in (direct(denoiser=denoiser), Diffusion(1.0, denoiser)):
        with nullcontext() if fits else pytest.raises(ValueError, match="there v_prediction"):
            method.setup("test")


def test_the_scheduler_on_the_hub_is_fetched(tmp_path, monkeypatch, caplog):
    """Of a base whose network alone is in the cache; where there is none, it is said."""

    def load_config(place, subfolder, local_files_only=False):
        if local_files_only:
            raise OSError("not in the cache")
        return {"prediction_type": "v_prediction"}

    bare().save_pretrained(tmp_path / "unet")
    assert UNet2D(str(tmp_path)).trained_schedule is None
    assert f"{tmp_path} has no scheduler that" in caplog.text
    monkeypatch.setattr(DDIMScheduler, "load_config", load_config)
    assert UNet2D(str(tmp_path)).trained_schedule["prediction"] == "v_prediction"


@pytest.mark.parametrize("ours", ["one 0123456789abcdef", "two fedcba9876543210"])
def test_a_base_of_other_latents_is_refused(ours, tmp_path):
    spaces = KLSpace(small_kl()), KLSpace(small_kl())
    spaces[0].source, spaces[1].source = "autoencoder 0123456789abcdef", ours
    file = run_of_a_base(tmp_path, spaces[0])
    four = base(in_channels=4, out_channels=4)
    method = direct(denoiser=four, space=spaces[1], denoiser_weights="runs/base")
    method.load_parts(lambda *_: file)
    same = ours.startswith("one")  # the same weights by another name
    refused = pytest.raises(ValueError, match=r"there autoencoder 0123")
    with nullcontext() if same else refused:
        method.setup("test")
