"""Direct inference: all steps at the target's size, on a base that stays as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.library import Flags
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.backbone.space import KLSpace
from lightning_modules.controls.direct import Direct
from lightning_modules.controls.larger import FromBase
from lightning_modules.diffusion import Diffusion
from lightning_modules.noise import Noise
from lightning_modules.sampling.solvers import Sampler
from lightning_modules.self_cascade import SelfCascade
from tests.lightning_modules.backbone.unets import bare, small_kl, wrapped
from tests.lightning_modules.test_self_cascade import FEW, SDXL, Pooled, Words, base, batch, noted


def direct(scale: float = 2.0, **settings: Any) -> Any:
    torch.manual_seed(0)
    return Direct(scale, **{"denoiser": base(), "sampler": FEW, **settings}).eval()


@torch.no_grad()
def test_all_steps_at_the_outputs_size():
    method = direct(sampler=Sampler())
    calls = noted(method)
    given = batch()
    method.generate(given, Noise(given["seed"]))
    assert [call.z.shape for call in calls] == [(2, 3, 16, 16)] * 50
    assert [int(call.t[0]) for call in calls] == list(range(981, 0, -20))


@pytest.mark.parametrize("variance", ["preserving", "exploding"])
@torch.no_grad()
def test_it_is_the_base_stage_of_a_cascade_that_has_no_other(variance):
    settings = {"schedule": Schedule(variance=variance), "sampler": Sampler(4, eta=0.5)}
    given, noise = batch(), Noise(batch()["seed"])
    cascade = SelfCascade(1.0, denoiser=base(), **settings).eval()
    expected = cascade.generate(given, noise)
    found = direct(**settings).generate(given, Noise(batch()["seed"]).stream(0))
    assert torch.equal(found, expected)


@torch.no_grad()
def test_in_latents_with_captions():
    """An image is its own, whatever is in the batch."""
    space, four = KLSpace(small_kl()), base(in_channels=4, out_channels=4)
    settings = {"encoder": Words(), "guidance": 2.0, "sampler": Sampler(4, eta=1.0, last=0)}
    method = direct(denoiser=four, space=space, **settings)
    given = batch((32, 64))
    both = method.sample(given)["sr"]
    assert both.shape == (2, 3, 32, 64)
    one = {"key": ["1"], "seed": given["seed"][1:], "text": given["text"][1:], "size": (32, 64)}
    torch.testing.assert_close(method.sample(one)["sr"], both[1:], rtol=0, atol=1e-4)
    other = {**one, "text": ["something else altogether"]}
    assert (method.sample(other)["sr"] - both[1:]).abs().max() > 1e-3


@pytest.mark.parametrize(("kind", "expected"), [("stage", 16), ("base", 8)])
@torch.no_grad()
def test_sdxl_gets_sizes(kind, expected):
    method = direct(denoiser=base(**SDXL), size_condition=kind, encoder=Pooled())
    calls = noted(method)
    given = batch()
    method.generate(given, Noise(given["seed"]))
    assert calls[0].got.sizes.tolist() == [[expected, expected, 0, 0, expected, expected]] * 2


def test_nothing_is_trained():
    method = direct()
    assert not any(parameter.requires_grad for parameter in method.parameters())
    assert not method.needs_weights
    assert method.weights_source == "base.ckpt 0123456789abcdef"
    method.setup("test")
    with pytest.raises(ValueError, match=r"Direct has nothing to train: use test or predict"):
        method.setup("fit")
    method.denoiser.source = ""
    with pytest.raises(ValueError, match=r"a trained base is required"):
        method.setup("test")


def run_of_a_base(path: Path, space: KLSpace | None = None, **settings: Any) -> Path:
    channels = {"in_channels": 4, "out_channels": 4} if space else {}
    run = Diffusion(1.0, wrapped(null="learned", **channels), space=space, **settings)
    checkpoint = {"state_dict": run.state_dict(), "pytorch-lightning_version": "2"}
    run.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path / "base.ckpt")
    return path / "base.ckpt"


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
            "was trained with betas squared.*, prediction v_pred",
        ),
        (
            {"schedule": Schedule(beta_end=0.02)},
            {},
            r"has beta_end 0\.012, .* with beta_end 0\.02: set",
        ),
        ({"timesteps": (0, 300)}, {}, r"timesteps 0 to 299, and sampling runs 751 to 1: train"),
        ({"timesteps": (100, 1000)}, {}, r"timesteps 100 to 999, and sampling runs 751 to 1"),
    ],
)
def test_a_base_is_used_as_its_run_was(settings, here, message, tmp_path):
    """Anything else would make noise without a word."""
    file = run_of_a_base(tmp_path, **settings)
    method = direct(denoiser_weights="runs/base", **here)
    if message is None:
        method.load_parts(lambda *_: file)
        return
    with pytest.raises(ValueError, match=message):
        method.load_parts(lambda *_: file)


@pytest.mark.parametrize(("prediction", "warned"), [("epsilon", False), ("v_prediction", True)])
def test_the_scheduler_beside_a_base_is_compared(prediction, warned, tmp_path, caplog):
    """As of Stable Diffusion 2.1 of 768 px, which predicts v: its images would be noise."""
    bare().save_pretrained(tmp_path / "unet")
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    (tmp_path / "scheduler").mkdir()
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**config, "prediction_type": prediction}))
    denoiser = UNet2D(str(tmp_path), null_token="zero", flags=Flags(frozen=True))
    direct(denoiser=denoiser).setup("test")
    expected = f"that of the base, {tmp_path}, has prediction v_prediction: if"
    assert (expected in caplog.text) == warned
    assert len(caplog.records) == warned


@pytest.mark.parametrize("ours", ["one 0123456789abcdef", "two fedcba9876543210", ""])
def test_a_base_of_other_latents_is_refused(ours, tmp_path):
    spaces = KLSpace(small_kl()), KLSpace(small_kl())
    spaces[0].source, spaces[1].source = "autoencoder 0123456789abcdef", ours
    file = run_of_a_base(tmp_path, spaces[0])
    four = base(in_channels=4, out_channels=4)
    method = direct(denoiser=four, space=spaces[1], denoiser_weights="runs/base")
    if ours.startswith("one"):  # the same weights by another name
        method.load_parts(lambda *_: file)
        return
    with pytest.raises(ValueError, match=r"with the autoencoder of autoencoder 0123.*set the same"):
        method.load_parts(lambda *_: file)


def test_results_are_told_apart():
    assert direct().output_settings == {"steps": 4}
    assert direct(sampler=Sampler(7, eta=1.0), clamp=1.0, base_size=(8, 16)).output_settings == {
        **{"steps": 7, "eta": 1.0, "clamp": 1.0, "base_size": "8x16"}
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"denoiser": wrapped(null="learned")}, r"never trained here: set frozen in .*flags"),
        ({"denoiser": base(in_channels=4, out_channels=4)}, r"4 channels and the space has 3"),
        ({"guidance": 2.0}, r"guidance is 2, .*set model\.init_args\.encoder"),
        ({"size_condition": "stage"}, r"size_condition is stage, and the denoiser has no size"),
        ({"size_condition": "target"}, r"size_condition is 'target'; expected stage or base"),
        ({"denoiser": base(**SDXL)}, r"size_condition is None, and the denoiser has a size"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        direct(**settings)


def test_images_that_cannot_be_made():
    given = batch((25, 40))
    with pytest.raises(ValueError, match=r"25x40 are no multiple of data\.init_args\.scale 2"):
        direct().generate(given, Noise(given["seed"]))
    latents = {"denoiser": base(in_channels=4, out_channels=4), "space": KLSpace(small_kl())}
    with pytest.raises(ValueError, match=r"25x40 were requested; expected multiples of 2"):
        direct(**latents, base_size=8).generate(given, Noise(given["seed"]))


def test_a_method_that_trains_the_base_may():
    """What FromBase asks of the base is its subclass's to say."""

    class Trains(FromBase):
        base_frozen = False

        def training_step(self, batch: Any, batch_idx: int) -> None: ...

        def generate(self, batch: Any, noise: Noise) -> Any: ...

    Trains(2.0, wrapped(null="learned"))
    Trains(2.0, wrapped(null="learned", flags=Flags(frozen=True)))
