"""ResShift: its training, its sampling, and released weights."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from lightning_modules import PixelSpace, ResidualShift, ResShift, ResShiftVQ, SwinUNet
from lightning_modules.latents import enlarged, latent_pair
from lightning_modules.networks.swin_unet import released_mask
from lightning_modules.noise import Noise
from tests import make
from tests.make import assert_near

SMALL = {"width": 32, "multipliers": (1, 2), "size": 16, "swin_width": 48, "heads": 3}


def small_vq():
    torch.manual_seed(0)
    return ResShiftVQ((32, 64), entries=16)


@pytest.fixture
def batch():
    return make.pairs(lr=(8, 8), scale=4)


# --------------------------------------------------------------------------- training, sampling


@pytest.mark.parametrize("sampler", ["posterior", "ddim", "dpm_solver_2m"])
@pytest.mark.parametrize("timesteps", [None, [14, 9, 4, 0]])
def test_sampling_ends_at_the_hr_that_the_network_predicts(batch, sampler, timesteps):
    network = make.Answering(lambda *_: batch["hr"] * 2 - 1)
    model = ResShift(4.0, network, PixelSpace(), timesteps=timesteps, sampler=sampler)

    sr = model.restore(batch, Noise(batch["seed"]))

    assert_near(sr, batch["hr"], 1e-5)
    called = [int(t[0]) for x, t, lr in network.calls]
    assert called == (timesteps or list(range(14, -1, -1)))  # by default all 15


def test_the_loss_is_the_mean_squared_error_of_hr_from_noisy_samples_and_lr(batch):
    error = 0.5
    hr = batch["hr"] * 2 - 1
    network = make.Answering(lambda *_: hr + error)
    model = make.quiet(ResShift(4.0, network, PixelSpace()))
    torch.manual_seed(1)
    loss = model.training_step(batch, 0)

    ((x, t, lr),) = network.calls
    torch.manual_seed(1)
    assert torch.equal(t, torch.randint(15, (2,)))
    y = enlarged(batch["lr"], batch["size"]) * 2 - 1
    x_t = model.process.add_noise(hr, y, torch.randn(hr.shape), t)
    assert_close(x, model.process.scale_input(x_t, t))
    assert_close(lr, batch["lr"] * 2 - 1)
    assert_near(loss, torch.tensor(error**2), 1e-6)


@pytest.mark.parametrize(
    ("h", "w", "scale"), [(5, 8, 4.0), (1, 9, 4.0), (6, 14, 1.5), (6, 14, 2.5)]
)
def test_inputs_are_padded_to_the_networks_divisor_and_outputs_cut(h, w, scale):
    """The network answers with the LR that it gets, enlarged."""
    batch = make.lr_batch(h, w, scale)
    network = make.Answering(lambda x, t, lr: functional.interpolate(lr, x.shape[-2:]))
    network.divisor = 16

    sr = ResShift(scale, network, PixelSpace()).restore(batch, Noise(batch["seed"]))

    assert_near(sr, functional.interpolate(batch["lr"], batch["size"]), 1e-5)
    seen = network.calls[0][0]
    assert seen.shape[-2] % 16 == 0
    assert seen.shape[-1] % 16 == 0


def test_a_network_for_latents_of_another_size_than_lr_is_refused_with_its_factor():
    """By default it takes LR as large as latents; in pixels, at x2, LR has half of their sides."""
    model = ResShift(2.0, SwinUNet(**SMALL), PixelSpace())
    batch = make.lr_batch(8, 16)
    with pytest.raises(ValueError, match=r"is 16x32, and LR 8x16: .*condition_factor to 0\.5"):
        model.restore(batch, Noise(batch["seed"]))


@pytest.mark.parametrize("lr_is_encoded", [False, True])
def test_latents_that_the_batch_has_are_standardised_instead_of_encoded_again(lr_is_encoded):
    """By mean and deviation of the space. LR is encoded if the batch has no latent of it."""
    space = small_vq()
    space.mean.fill_(0.5)
    space.deviation.fill_(2.0)
    batch = make.batch(2, (32, 32), lr=(3, 8, 8), latent=(3, 16, 16), lr_latent=(3, 16, 16))
    batch["space"] = space.identity
    expected_y = (batch["lr_latent"] - 0.5) / 2
    if lr_is_encoded:
        del batch["lr_latent"]
        expected_y = space.encode(enlarged(batch["lr"], batch["size"]))

    z, y = latent_pair(space, batch)

    assert torch.equal(z, (batch["latent"] - 0.5) / 2)
    assert_close(y, expected_y)


def test_with_noise_both_latents_are_drawn_from_the_encoders_distribution(batch):
    space = make.Averaged(factor=4)

    z, y = latent_pair(space, batch, Noise(batch["seed"]))

    noise = Noise(batch["seed"])  # the next draw is another one, so HR comes first
    assert torch.equal(z, space.encode(batch["hr"], noise))
    assert torch.equal(y, space.encode(enlarged(batch["lr"], batch["size"]), noise))


# --------------------------------------------------------------------------- the perceptual part


def with_constant_latent(latent, perceptual, **settings):
    """A method in small latents whose network always gives this latent."""
    network = make.Answering(lambda *_: latent)
    return make.quiet(ResShift(4.0, network, small_vq(), perceptual=perceptual, **settings))


@pytest.mark.parametrize(("target", "prediction"), [("round_trip", "sample"), ("hr", "residual")])
def test_the_perceptual_part_compares_decoded_images(batch, target, prediction):
    """With HR as decoded from its latent, or HR itself; also where the network predicts y - x0.

    `make.Distance` is the mean squared error, and the network always predicts the same latent.
    """
    distance = make.Distance()
    latent = make.normal(2, 3, 16, 16)
    settings = {"perceptual_weight": 3.0, "perceptual_target": target}
    settings["process"] = ResidualShift(prediction=prediction)
    model = with_constant_latent(latent, distance, **settings)
    if prediction == "residual":
        y = model.space.encode(enlarged(batch["lr"], batch["size"]))
        model.network.answer = lambda *_: y - latent

    loss = model.training_step(batch, 0)

    z = model.space.encode(batch["hr"])
    sr = model.space.decode(latent).clamp(0, 1)
    hr = batch["hr"] if target == "hr" else model.space.decode(z).clamp(0, 1)
    seen_sr, seen_hr = distance.seen[0]
    assert_close(seen_sr, sr)
    assert torch.equal(seen_hr, hr)
    assert_close(loss, (latent - z).square().mean() + 3 * (sr - hr).square().mean())


def test_the_perceptual_part_trains_the_network_through_the_frozen_decoder(batch):
    latent = make.normal(2, 3, 16, 16).requires_grad_()
    model = with_constant_latent(latent, make.Distance())
    plain = with_constant_latent(latent, None)

    # Both draw the same timesteps and noise, by the batch's seeds.
    (gradient,) = torch.autograd.grad(model.training_step(batch, 0), latent)
    (without,) = torch.autograd.grad(plain.training_step(batch, 0), latent)

    assert (gradient - without).abs().max() > 1e-6
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained == ["network.weight"]
    assert model.checkpoint_keys() == ["network.weight"]


# --------------------------------------------------------------------------------------- weights


def test_a_released_file_fills_the_network(tmp_path):
    """Its masks of shifted windows are no weights, and its names begin with `module.`."""
    model = ResShift(2.0, SwinUNet(**SMALL), small_vq())
    mask = released_mask(16, 16, window=8, shift=4)
    official = {"module.input_blocks.1.1.blocks.1.attn_mask": mask}
    for name, tensor in model.network.state_dict().items():
        official[f"module.{name}"] = torch.randn_like(tensor)
    torch.save({"state_dict": official}, tmp_path / "resshift.pth")

    model.load_weights(tmp_path / "resshift.pth")

    for name, tensor in model.network.named_parameters():
        assert torch.equal(tensor, official[f"module.{name}"])


def test_weights_of_another_process_are_warned_about(tmp_path, caplog):
    """Their tensors fit, and their outputs would be wrong without a word."""
    process = ResidualShift(steps=4, min_noise=0.2)
    model = ResShift(4.0, SwinUNet(**SMALL), PixelSpace(deviation=[0.5]), process)
    run = make.save_run(model, tmp_path / "a.ckpt")

    model.load_weights(run)
    assert "process" not in caplog.text

    ResShift(4.0, SwinUNet(**SMALL), PixelSpace()).load_weights(run)  # of the default process
    assert "space.deviation [1.0], there [0.5]; process.steps 15, there 4" in caplog.text
    assert "process.min_noise 0.04, there 0.2" in caplog.text
