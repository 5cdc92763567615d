"""InvSR: timesteps, sampling against diffusers' scheduler, training, released weights."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from lightning.pytorch.plugins import Precision
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from lightning_modules import InvSR, LatentDiscriminator, LatentLPIPS, NoisePredictor, UNet2D
from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.library import Flags
from lightning_modules.latents import enlarged
from lightning_modules.methods.invsr import STARTS, Sampling, Training, timesteps_for
from lightning_modules.noise import Noise
from lightning_modules.sampling.tiling import Tiling
from tests import make
from tests.lightning_modules.backbone.unets import FLAT, noted
from tests.make import assert_near

UNET = FLAT | {
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 8,
}


def predictor(head_width=16):
    torch.manual_seed(1)
    return NoisePredictor(3, widths=(32, 32), layers=1, head_width=head_width)


def discriminator():
    torch.manual_seed(3)
    return LatentDiscriminator(3, widths=(32, 32), layers=(1, 1), heads=4, text_width=None)


def invsr(**settings):
    """A method of x4 in latents of 1/8, for tiles of 16 px of LR."""
    torch.manual_seed(2)
    denoiser = UNet2D(UNET, flags=Flags(frozen=True))
    denoiser.source = "base.ckpt 0123456789abcdef"
    parts = {"predictor": predictor(), "denoiser": denoiser, "space": make.Averaged(), "patch": 16}
    method = make.quiet(InvSR(4.0, **(parts | settings)))
    state = SimpleNamespace(fn="test")
    asked = {"global_step": 0, "state": state, "is_global_zero": False}  # of a trainer
    method._trainer = SimpleNamespace(**asked, precision="32-true", precision_plugin=Precision())
    return method


def images(h=16, w=16, count=2):
    """HR, and LR by its means."""
    size = (4 * h, 4 * w)
    batch = make.batch(count, size, hr=(3, *size))
    return {**batch, "lr": functional.avg_pool2d(batch["hr"], 4)}


# ------------------------------------------------------------------------------------- timesteps


@pytest.mark.parametrize(
    ("steps", "start", "expected"),
    [
        # Up to five steps as released.
        (1, None, [200]),
        (2, None, [200, 100]),
        (3, None, [200, 100, 50]),
        (4, None, [200, 150, 100, 50]),
        (5, None, [250, 200, 150, 100, 50]),
        # More steps evenly from 250, as the released script makes them.
        (10, None, [250, 225, 200, 175, 150, 125, 100, 75, 50, 25]),
        # The starts of the paper's table 4.
        (3, 250, [250, 150, 50]),
        (3, 200, [200, 100, 50]),
        # Other starts: evenly, rounded down.
        (3, 220, [220, 146, 73]),
    ],
)
def test_timesteps_are_those_of_release_or_paper_or_evenly_spaced(steps, start, expected):
    starts = (*STARTS, 220)  # a start that was not trained is refused
    method = invsr(sampling=Sampling(steps=steps, start=start), training=Training(starts=starts))
    assert method.plan() == expected


@pytest.mark.parametrize("start", [250, 100])
@pytest.mark.parametrize("steps", [6, 7, 40, 99])
def test_many_timesteps_are_rounded_as_released(start, steps):
    """The released script calls ``numpy.linspace`` with integers."""
    released = np.linspace(start, 0, steps, endpoint=False, dtype=np.int64)
    assert timesteps_for(steps, start) == released.tolist()


# -------------------------------------------------------------------------------------- sampling


@torch.no_grad()
def sampled_by_diffusers(method, batch, indices):
    """Sampling with diffusers' scheduler; if deterministic, by the means of all distributions.

    indices: Timesteps, counted from 0.
    """
    noise = Noise(batch["seed"])
    is_random = not method.sampling.deterministic
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    )
    scheduler.set_timesteps(timesteps=indices)
    lr = enlarged(batch["lr"], batch["size"])
    z = method.space.encode(lr, noise.stream("encoder") if is_random else None)
    eps = noise.stream("start").normal(z.shape)
    if method.predictor is not None:
        mean, logvar = method.predictor(batch["lr"], float(indices[0]))
        eps = mean + torch.exp(logvar / 2) * eps if is_random else mean
    z = z + scheduler.sigmas[0] * eps
    for t in scheduler.timesteps:
        x = scheduler.scale_model_input(z, t)
        raw = method.denoiser.unet(x, t, method.denoiser.null_text(len(x))).sample
        z = scheduler.step(raw, t, z).prev_sample
    return method.space.decode(z)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("timesteps", [[200], [250, 200, 150, 100, 50]])
def test_sampling_is_that_of_diffusers_euler(timesteps, deterministic):
    """Timesteps count from 1, so networks and diffusers get 249 for timestep 250."""
    batch = images()
    method = invsr(sampling=Sampling(timesteps=timesteps, deterministic=deterministic)).eval()

    sr = method.restore(batch, Noise(batch["seed"]))

    indices = [t - 1 for t in timesteps]
    assert_near(sr, sampled_by_diffusers(method, batch, indices), 1e-5)
    # An index that is off by one would be noticed.
    off_by_one = sampled_by_diffusers(method, batch, timesteps)
    assert (sr - off_by_one).abs().max() > 1e-4


def test_without_a_predictor_sampling_starts_from_normal_noise():
    batch = images()
    method = invsr(predictor=None, sampling=Sampling(timesteps=[250])).eval()
    sr = method.restore(batch, Noise(batch["seed"]))
    assert_near(sr, sampled_by_diffusers(method, batch, [249]), 1e-5)


@pytest.mark.parametrize("solver", ["euler", "ancestral"])
def test_between_timesteps_only_the_ancestral_solver_draws_noise(solver):
    """With `deterministic` encoder and predictor draw none, which leaves the solver."""
    batch = images()
    sampling = Sampling(timesteps=[250, 100], deterministic=True, solver=solver)
    noise = Noise(batch["seed"])
    sr = invsr(sampling=sampling).eval().restore(batch, noise)
    assert noise.drew == (solver == "ancestral")
    assert sr.isfinite().all()


@pytest.mark.parametrize(("guidance", "texts"), [(1.0, [1, 1]), (2.0, [-1, -1, 1, 1])])
def test_with_guidance_the_denoiser_gets_the_negative_prompt_beside_the_prompt(guidance, texts):
    """Two images: in one call of four, first those with the negative prompt, here -1."""
    batch = images(count=2)
    text = torch.ones(2, 3, 8)
    prompt = SimpleNamespace(
        condition=lambda count: Condition(text=text),
        unconditional=lambda count: Condition(text=-text),
    )
    method = invsr(prompt=prompt, sampling=Sampling(guidance=guidance)).eval()
    calls = noted(method)

    method.restore(batch, Noise(batch["seed"]))

    assert calls[0].condition.text[:, 0, 0].tolist() == texts


def test_tiles_are_cut_and_blended_as_released():
    """LR of 10 x 40: mirrored to 16 x 40, cut at 0, 8, 16 and 24, blended by a Gaussian.

    Tiles of 16 are 64 pixels of the output at x4. The released Gaussian is centred at pixel 31,
    half a pixel off the tile's centre at 31.5, so results as published need the same.
    """
    batch = images(h=10, w=40, count=1)
    method = invsr(sampling=Sampling(deterministic=True)).eval()
    method._trainer = None
    method.set_tiling(Tiling(window="released"))

    sr = method.enlarge(batch)["sr"]

    mirrored = functional.pad(batch["lr"], (0, 0, 3, 3), mode="reflect")
    sigma = 0.3 * ((64 - 1) / 2 - 1) + 0.8  # OpenCV's for a kernel of 64
    window = torch.exp(-(((torch.arange(64) - 31) / sigma) ** 2) / 2)  # by columns
    total = torch.zeros(1, 3, 64, 160)
    weights = torch.zeros(160)
    for start in (0, 8, 16, 24):
        tile = {**batch, "lr": mirrored[..., start : start + 16], "size": (64, 64)}
        output = method.restore(tile, Noise(batch["seed"])).clamp(0, 1)
        columns = slice(4 * start, 4 * start + 64)
        total[..., columns] += output * window
        weights[columns] += window
    assert method.tile_count == 4
    assert_near(sr, (total / weights)[:, :, 12:52], 1e-5)  # without 3 mirrored rows, times 4
    assert method.output_settings["tiling.window"] == "released"


# The middle of 0 to 8, and of 5 to 12.5, less half a pixel.
@pytest.mark.parametrize(("misaligned", "middle"), [(False, 3.5), (True, 8.25)])
def test_colours_lie_where_they_belong_unless_color_misaligned_is_set(misaligned, middle):
    """LR of 10 columns, red in 0 and 1, is mirrored to 16: red are 2, of the mirror, 3 and 4.

    At x4 the output has 40 columns, and 0 to 8 are to be red. As released, the 16 columns are
    squeezed into 40 for the colours, which makes 5 to 12.5 red.
    """
    batch = images(h=16, w=10, count=1)
    batch["lr"] = torch.full((1, 3, 16, 10), 0.2)
    batch["lr"][:, 0, :, :2] = 0.9
    method = invsr(color_fix="ycbcr", sampling=Sampling(color_misaligned=misaligned)).eval()

    sr = method.enlarge(batch)["sr"]

    redness = (sr[:, 0] - sr[:, 2]).mean((0, 1))
    mean_column = (redness * torch.arange(40)).sum() / redness.sum()
    assert mean_column.item() == pytest.approx(middle, abs=0.5)
    assert method.output_settings.get("color_misaligned") == ("true" if misaligned else None)


# -------------------------------------------------------------------------------------- training


def test_the_loss_and_its_gradient_are_those_of_x0_predicted_from_the_start():
    """(z_t - sigma unet(z_t / sqrt(sigma^2 + 1)) - z)^2, where z_t = y + sigma noise(LR).

    z and y are the latents of HR and of the enlarged LR; the noise is drawn from the predictor.
    """
    batch = images()
    method = invsr(sampling=Sampling(deterministic=True), training=Training(starts=[250]))
    torch.manual_seed(5)
    loss, (z, x0, t, _) = method.generator_loss(batch)

    torch.manual_seed(5)
    torch.randint(1, (2,))  # as timesteps are drawn
    y = method.space.encode(enlarged(batch["lr"], batch["size"]))
    noise = method.predictor(batch["lr"], t)
    eps = noise.mean + torch.exp(noise.logvar / 2) * torch.randn(noise.mean.shape)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square()  # Stable Diffusion's
    abar = (1 - betas).cumprod(0)[249]  # of timestep 250
    sigma = ((1 - abar) / abar).sqrt()
    z_t = y + sigma * eps
    raw = method.denoiser(z_t / (sigma**2 + 1) ** 0.5, t)
    expected = (z_t - sigma * raw - z).square().mean()
    assert t.tolist() == [249, 249]  # the index of 250
    assert_near(x0, z_t - sigma * raw, 1e-5)
    assert_near(loss, expected, 1e-5)
    weight = method.predictor.encoder.conv_in.weight
    (gradient,) = torch.autograd.grad(loss, weight)
    (by_hand,) = torch.autograd.grad(expected, weight)
    assert_close(gradient, by_hand, rtol=1e-3, atol=1e-6)


def test_latents_of_hr_are_drawn_from_the_encoders_distribution_in_training():
    """Unless `sampling.deterministic` is set, which takes the means."""
    batch = images()
    method = invsr()
    _, judged = method.generator_loss(batch)
    assert torch.equal(judged[0], method.space.encode(batch["hr"], Noise(batch["seed"])))


def loss_of(method, batch, step=0):
    """The loss of a step, the same draws each time."""
    method._trainer.global_step = step
    torch.manual_seed(0)
    return method.generator_loss(batch)


def test_the_perceptual_loss_has_the_weight_2():
    """The default of `Training.perceptual_weight`. `make.Distance` is the mean squared error."""
    batch = images()
    plain, (z, x0, _, _) = loss_of(invsr(), batch)

    loss, _ = loss_of(invsr(training=Training(perceptual=make.Distance())), batch)

    assert_close(loss, plain + 2 * (x0 - z).square().mean())


def test_training_loads_the_weights_of_the_perceptual_distance(tmp_path):
    widths = (4, 6, 8, 8, 8)
    trained = LatentLPIPS(channels=3, widths=widths)
    torch.save(trained.state_dict(), tmp_path / "distance.pth")
    training = Training(
        perceptual=LatentLPIPS(channels=3, widths=widths),
        perceptual_weights=str(tmp_path / "distance.pth"),
    )
    method = invsr(training=training)

    method.setup("fit")

    for name, value in trained.state_dict().items():
        assert torch.equal(method.perceptual.state_dict()[name], value)


def test_the_adversarial_loss_counts_by_a_tenth_from_adversarial_start_on():
    """0.1 is the default of `Training.adversarial_weight`; the discriminator learns before."""
    batch = images()
    plain, (_, x0, t, _) = loss_of(invsr(), batch)
    method = invsr(training=Training(discriminator=discriminator(), adversarial_start=3))

    early, _ = loss_of(method, batch, step=2)
    late, _ = loss_of(method, batch, step=3)

    logits = torch.stack([logits.mean() for logits in method.discriminator(x0, t)])
    assert_close(early, plain)
    assert_close(late, plain - 0.1 * logits.mean())


def test_the_discriminator_learns_by_the_hinge_of_latents_clamped_to_10():
    """As released, which clamps predicted latents alone. It learns before `adversarial_start`."""
    method = invsr(training=Training(discriminator=discriminator(), adversarial_start=3))
    _, (z, x0, t, condition) = loss_of(method, images(), step=2)
    large = 100 * x0
    assert large.abs().max() > 10

    loss = method.discriminator_loss((z, large, t, condition))

    hinges = []
    for logits in method.discriminator(z, t):
        hinges.append(functional.relu(1 - logits).mean())
    for logits in method.discriminator(large.clamp(-10, 10), t):
        hinges.append(functional.relu(1 + logits).mean())
    assert_close(loss, torch.stack(hinges).mean())


# --------------------------------------------------------------------------------------- weights


def test_released_files_fill_predictor_and_discriminator(tmp_path):
    """The predictor's file has names `encoder.*`, the discriminator's `module.*`."""
    released = predictor()
    judge = discriminator()
    for parameter in (*released.parameters(), *judge.parameters()):
        nn.init.normal_(parameter)
    torch.save(released.state_dict(), tmp_path / "predictor.pth")
    named = {f"module.{name}": tensor for name, tensor in judge.state_dict().items()}
    torch.save({"state_dict": named}, tmp_path / "discriminator.pth")
    training = Training(discriminator=discriminator(), discriminator_weights="discriminator.pth")
    method = invsr(training=training)

    method.load_parts(lambda _, name: tmp_path / name)
    method.load_weights(tmp_path / "predictor.pth")

    for name, tensor in released.state_dict().items():
        assert name.startswith("encoder.")
        assert torch.equal(method.predictor.state_dict()[name], tensor)
    for name, tensor in judge.state_dict().items():
        assert torch.equal(method.discriminator.state_dict()[name], tensor)
