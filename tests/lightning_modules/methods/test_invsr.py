"""InvSR: timesteps, sampling against diffusers' scheduler, training, released weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from lightning.pytorch.plugins import Precision
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.library import Flags
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.latents import enlarged
from lightning_modules.methods.invsr import STARTS, InvSR, Sampling, Training, timesteps_for
from lightning_modules.networks.discriminator import LatentDiscriminator
from lightning_modules.networks.noise_predictor import NoisePredictor
from lightning_modules.noise import Noise
from lightning_modules.sampling.tiling import Tiling
from tests.lightning_modules.averaged import Averaged
from tests.lightning_modules.backbone.unets import FLAT
from tests.lightning_modules.tiny import random_batch

SMALL = {"widths": (32, 32), "layers": 1, "head_width": 16}
UNET = FLAT | {
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 8,
}


def predictor(**options: Any) -> NoisePredictor:
    torch.manual_seed(1)
    return NoisePredictor(3, **{**SMALL, **options})


def base() -> UNet2D:
    torch.manual_seed(2)
    denoiser = UNet2D(UNET, flags=Flags(frozen=True))
    denoiser.source = "base.ckpt 0123456789abcdef"
    return denoiser


def invsr(scale: float = 4.0, **options: Any) -> Any:
    options = {"predictor": predictor(), "denoiser": base(), "space": Averaged()} | options
    groups: dict[str, Any] = {
        name: kind(**{k: options.pop(k) for k in list(options) if k in kind.__annotations__})
        for name, kind in (("sampling", Sampling), ("training", Training))
    }
    method: Any = InvSR(scale, **{"patch": 16, **groups, **options})
    method.log = lambda *_, **__: None
    method._trainer = SimpleNamespace(
        global_step=0,
        state=SimpleNamespace(fn="test"),
        is_global_zero=False,
        precision_plugin=Precision(),
    )
    return method


def judge() -> LatentDiscriminator:
    torch.manual_seed(3)
    options: Any = {"widths": (32, 32), "layers": (1, 1), "heads": 4, "text_width": None}
    return LatentDiscriminator(3, **options)


def batch(h: int = 16, w: int = 16, count: int = 2, scale: int = 4) -> Any:
    size = (scale * h, scale * w)
    given = random_batch(count, size, hr=(3, *size))
    return {**given, "lr": functional.avg_pool2d(given["hr"], scale)}


# ------------------------------------------------------------------------------------- timesteps


def test_sigmas_are_those_of_the_release() -> None:
    """Section 2 of the specification, read off the official code in float32."""
    schedule = Schedule(variance="exploding")
    expected = {249: 0.693205, 199: 0.569285, 149: 0.453819, 99: 0.341674, 49: 0.223003}
    for t, sigma in expected.items():
        assert schedule.level(t).sigma == pytest.approx(sigma, abs=2e-6)


@pytest.mark.parametrize(
    ("steps", "start", "expected"),
    [
        (1, None, [200]),
        (2, None, [200, 100]),
        (3, None, [200, 100, 50]),
        (4, None, [200, 150, 100, 50]),
        (5, None, [250, 200, 150, 100, 50]),
        (10, None, [250, 225, 200, 175, 150, 125, 100, 75, 50, 25]),
        (1, 250, [250]),
        (1, 100, [100]),
        (3, 250, [250, 150, 50]),
        (3, 200, [200, 100, 50]),
        (3, 150, [150, 100, 50]),
        (4, 100, [100, 75, 50, 25]),
        (5, 450, [450, 360, 270, 180, 90]),
        (3, 300, [300, 200, 100]),
        (2, 60, [60, 30]),
        (3, 220, [220, 146, 73]),
    ],
)
def test_timesteps_are_those_of_release_and_paper(
    steps: int, start: int | None, expected: list[int]
) -> None:
    assert timesteps_for(steps, start) == expected
    starts = (*STARTS, 300, 450, 220, 60)
    assert invsr(steps=steps, start=start, starts=starts).plan() == expected


def test_listed_timesteps_are_steps_and_give_way_to_their_number() -> None:
    method = invsr(timesteps=[200, 150, 50])
    assert method.default_steps == 3
    assert method.arguments_for_steps(2) == {"sampling": {"steps": 2, "timesteps": None}}


@pytest.mark.parametrize("start", [250, 100])
def test_long_lists_are_rounded_as_released(start: int) -> None:
    """The released script calls ``numpy.linspace`` with integers."""
    for steps in range(6, start + 1):
        released = np.linspace(start, 0, steps, endpoint=False, dtype=np.int64).tolist()
        assert timesteps_for(steps, start) == released
    assert released[-1] == 1  # the least that counting from 1 allows


@pytest.mark.parametrize("solver", ["euler", "ancestral"])
def test_networks_and_noise_levels_get_the_index(solver: Any) -> None:
    """Timestep 250 is index 249, for all networks, as in training."""
    method, given = invsr(timesteps=[250, 200, 150, 100, 50], solver=solver).eval(), batch()
    seen: dict[str, list[float]] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            value = float(inputs[1].flatten()[0] if torch.is_tensor(inputs[1]) else inputs[1])
            if not seen.setdefault(name, []) or seen[name][-1] != value:
                seen[name].append(value)

        return hook

    method.predictor.register_forward_pre_hook(note("predictor"))
    method.denoiser.register_forward_pre_hook(note("denoiser"))
    method.restore(given, Noise(given["seed"]))
    assert seen.pop("predictor") == [249]
    assert seen.pop("denoiser") == [249, 199, 149, 99, 49]


# ------------------------------------------------------------------------------------- sampling


@torch.no_grad()
def by_diffusers(method: Any, given: Any, indices: list[int]) -> Any:
    """Sampling by the means of all distributions, with diffusers' scheduler."""
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    )
    scheduler.set_timesteps(timesteps=indices)
    z = method.space.encode(enlarged(given["lr"], given["size"]))
    z = z + scheduler.sigmas[0] * method.predictor(given["lr"], float(indices[0])).mean
    for t in scheduler.timesteps:
        x = scheduler.scale_model_input(z, t)
        text = method.denoiser.null_text(len(x))
        raw = method.denoiser.unet(x, t, text).sample
        z = scheduler.step(raw, t, z).prev_sample
    return method.space.decode(z)


@pytest.mark.parametrize("timesteps", [[200], [200, 100, 50], [250, 200, 150, 100, 50]])
def test_sampling_is_that_of_diffusers_euler(timesteps: list[int]) -> None:
    method, given = invsr(timesteps=timesteps, deterministic=True).eval(), batch()
    found = method.restore(given, Noise(given["seed"]))
    indices = [t - 1 for t in timesteps]
    torch.testing.assert_close(found, by_diffusers(method, given, indices), rtol=0, atol=1e-5)
    off_by_one = by_diffusers(method, given, timesteps)
    assert (found - off_by_one).abs().max() > 1e-4


def test_tiles_as_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """LR of 10 x 40 and a patch of 16: mirrored to 16 x 40, cut at 0, 8, 16 and 24, blended."""
    method, given = invsr(deterministic=True).eval(), batch(10, 40, 1)
    method._trainer = None
    method.set_tiling(Tiling(window="released"))
    seen: list[Tensor] = []
    restore = method.restore
    monkeypatch.setattr(
        method, "restore", lambda b, noise: seen.append(b["lr"]) or restore(b, noise)
    )
    found = method.enlarge(given)["sr"]
    above = functional.pad(given["lr"], (0, 0, 3, 3), mode="reflect")
    assert len(seen) == method.tile_count == 4
    sigma = 0.3 * ((64 - 1) / 2 - 1) + 0.8
    one = torch.exp(-(((torch.arange(64) - 31) / sigma) ** 2) / 2)
    total, weights = torch.zeros(1, 3, 64, 160), torch.zeros(160)
    for lr, start in zip(seen, (0, 8, 16, 24), strict=True):
        assert torch.equal(lr, above[..., start : start + 16])
        part = {**given, "lr": lr, "size": (64, 64)}
        place = slice(4 * start, 4 * start + 64)
        total[..., place] += restore(part, Noise(given["seed"])).clamp(0, 1) * one
        weights[place] += one
    torch.testing.assert_close(found, (total / weights)[:, :, 12:52], rtol=0, atol=1e-5)
    assert method.output_settings["tiling.window"] == "released"


def test_colours_lie_where_they_belong_unless_the_released_way_is_asked_for() -> None:
    """An image that is red on the left, 16 px high and 10 wide, mirrored to 16 x 16."""
    given = batch(16, 10, 1)
    given["lr"] = torch.full((1, 3, 16, 10), 0.2)
    given["lr"][:, 0, :, :5] = 0.9
    red = {}
    for misaligned in (False, True):
        method = invsr(color_fix="ycbcr", color_misaligned=misaligned).eval()
        sr = method.enlarge(given)["sr"]
        red[misaligned] = (sr[:, 0] - sr[:, 2]).mean((0, 1)) > 0.2
    assert red[False][:18].all()
    assert not red[False][22:].any()
    assert not torch.equal(red[True], red[False])
    assert method.output_settings["color_misaligned"] == "true"


def test_a_base_that_was_trained_on_fewer_timesteps() -> None:
    method = invsr(starts=[300], start=300)
    method.denoiser.trained_timesteps = [0, 300]
    method.setup("fit")
    for trained in ([0, 299], [300, 1000]):
        method = invsr(starts=[300], start=300, predictor=None)  # which no fit checks
        method.denoiser.trained_timesteps = trained
        with pytest.raises(ValueError, match=f"{trained[0]} to .*, and 299 to 299 are used"):
            method.setup("test")


# ------------------------------------------------------------------------------------- training


def test_the_loss_by_hand() -> None:
    method, given = invsr(deterministic=True, starts=[250]), batch()
    torch.manual_seed(5)
    loss, (z, x0, t, _) = method.generator_loss(given)
    assert t.tolist() == [249, 249]
    torch.manual_seed(5)
    torch.randint(1, (2,))
    y = method.space.encode(enlarged(given["lr"], given["size"]))
    noise = method.predictor(given["lr"], t)
    sample = noise.mean + torch.exp(noise.logvar / 2) * torch.randn(noise.mean.shape)
    z_t = y + 0.693205 * sample
    raw = method.denoiser(z_t / (0.693205**2 + 1) ** 0.5, t)
    torch.testing.assert_close(x0, z_t - 0.693205 * raw, rtol=0, atol=1e-5)
    torch.testing.assert_close(loss, (x0 - z).square().mean(), rtol=0, atol=1e-5)
    # Through the denoiser and through z_t.
    by_hand = (z_t - 0.693205 * raw - z).square().mean()
    weight = method.predictor.encoder.conv_in.weight
    expected = torch.autograd.grad(by_hand, weight)[0]
    found = torch.autograd.grad(loss, weight)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_training_is_not_guided() -> None:
    """As released: guidance is a setting of sampling."""
    losses, given, text = [], batch(), torch.ones(1, 2, 8)
    prompt = SimpleNamespace(
        condition=lambda count: Condition(text.expand(count, -1, -1)),
        unconditional=lambda count: Condition(0 * text.expand(count, -1, -1)),
    )
    for guidance in (1.0, 3.0):
        method = invsr(guidance=guidance, prompt=prompt, deterministic=True)
        torch.manual_seed(0)
        losses.append(method.generator_loss(given)[0].item())
    assert losses[0] == losses[1]


def test_the_parts_of_the_loss_by_their_weights() -> None:
    class Apart(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a - b).abs().flatten(1).mean(1)

    given, losses = batch(), {}
    for name, options in {
        "mse": {},
        "perceptual": {"perceptual": Apart()},
        "adversarial": {"discriminator": judge(), "adversarial_start": 0},
    }.items():
        torch.manual_seed(0)
        method = invsr(**options)
        torch.manual_seed(0)
        losses[name], (z, x0, t, _) = method.generator_loss(given)
    distance = (x0 - z).abs().mean()
    torch.testing.assert_close(losses["perceptual"], losses["mse"] + 2 * distance)
    opinion = -torch.stack([m.mean() for m in method.discriminator(x0, t)]).mean()
    torch.testing.assert_close(losses["adversarial"], losses["mse"] + 0.1 * opinion)


def test_the_discriminator_is_heard_late_and_trained_at_once() -> None:
    method, given = invsr(discriminator=judge(), adversarial_start=3), batch()
    losses = []
    for step in (2, 3):
        method._trainer.global_step = step
        torch.manual_seed(0)
        losses.append(method.generator_loss(given)[0].item())
    assert losses[0] != losses[1]
    torch.manual_seed(0)
    z, x0, t, known = method.generator_loss(given)[1]
    loss = method.discriminator_loss((z, x0 * 100, t, known))
    real, fake = method.discriminator(z, t), method.discriminator((x0 * 100).clamp(-10, 10), t)
    by_hand = [
        0.5 * functional.relu(1 - a).mean() + 0.5 * functional.relu(1 + b).mean()
        for a, b in zip(real, fake, strict=True)
    ]
    torch.testing.assert_close(loss, sum(by_hand) / len(by_hand))


# ------------------------------------------------------------------------------------- weights


def test_released_files_of_predictor_and_discriminator(tmp_path: Path) -> None:
    """Their names: `encoder.*` of the one, bare ones of the other; `module.` is looked past."""
    given, other, another = predictor(), judge(), judge()
    for parameter in (*given.parameters(), *other.parameters()):
        nn.init.normal_(parameter)
    torch.save(given.state_dict(), tmp_path / "predictor.pth")
    assert all(name.startswith("encoder.") for name in given.state_dict())
    named = {f"module.{name}": tensor for name, tensor in other.state_dict().items()}
    torch.save({"state_dict": named}, tmp_path / "discriminator.pth")
    method = invsr(discriminator=another, discriminator_weights="discriminator.pth")
    method.load_parts(lambda _, name: tmp_path / name)
    method.load_weights(tmp_path / "predictor.pth")
    for ours, theirs in ((method.predictor, given), (method.discriminator, other)):
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], tensor)
    tensors = given.state_dict()
    tensors.pop("encoder.conv_in.bias")
    torch.save(tensors, tmp_path / "short.pth")
    with pytest.raises(ValueError, match=r"1 missing \(predictor\.encoder\.conv_in\.bias 32\)"):
        method.load_weights(tmp_path / "short.pth")
    wrong = invsr(discriminator=judge(), discriminator_weights="predictor.pth")
    with pytest.raises(ValueError, match=r"predictor\.pth do not fit"):
        wrong.load_parts(lambda _, name: tmp_path / name)
