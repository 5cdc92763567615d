"""ResShift: its training, its sampling, and released weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.backbone.space import PixelSpace, ResShiftVQ
from lightning_modules.latents import enlarged, latent_pair
from lightning_modules.methods.resshift import ResShift
from lightning_modules.networks.swin_unet import SwinUNet, released_mask
from lightning_modules.noise import Noise
from tests.lightning_modules.tiny import random_batch, save_run

SMALL = {"width": 32, "multipliers": (1, 2), "size": 16, "swin_width": 48, "heads": 3}


def small_vq():
    torch.manual_seed(0)
    return ResShiftVQ((32, 64), entries=16)


class Oracle(nn.Module):
    """Knows the answer, and notes what it was given."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.weight = nn.Parameter(torch.zeros(()))
        self.got = []

    def forward(self, x, t, lr):
        self.got.append(t.tolist())
        return functional.pad(self.answer, (0, x.shape[-1] - self.answer.shape[-1]))[: len(x)]


def batch(h=8, w=8, scale=4, count=2):
    size = (h * scale, w * scale)
    return random_batch(count, size, lr=(3, h, w), hr=(3, *size))


class Echo(nn.Module):
    """Believes all that it sees, if it has the right size."""

    divisor = 16

    def forward(self, x, t, lr):
        assert x.shape[-2] % 16 == x.shape[-1] % 16 == 0
        return x


@pytest.mark.parametrize(
    ("timesteps", "got"), [(None, list(range(14, -1, -1))), ([14, 9, 4, 0], [14, 9, 4, 0])]
)
def test_an_oracle_is_believed(timesteps, got):
    """The last step gives what the network says, whatever noise there was on the way."""
    given = batch()
    oracle = Oracle(given["hr"] * 2 - 1)
    method = ResShift(4.0, oracle, PixelSpace(), timesteps=timesteps)
    found = method.restore(given, Noise(given["seed"]))
    torch.testing.assert_close(found, given["hr"], rtol=0, atol=1e-6)
    assert oracle.got == [[t, t] for t in got]


def test_the_loss_is_that_of_what_was_mixed():
    given = batch()
    method = ResShift(4.0, Oracle(given["hr"] * 2 - 1), PixelSpace())
    method.log = lambda *_, **__: None
    assert method.training_step(given, 0) < 1e-10
    method.network.answer = torch.zeros_like(given["hr"])
    expected = (given["hr"] * 2 - 1).square().mean()
    torch.testing.assert_close(method.training_step(given, 0), expected)


@pytest.mark.parametrize(("h", "w"), [(5, 8), (4, 3), (1, 9)])
def test_any_size_is_padded_and_cut_again(h, w):
    given = batch(h, w)
    found = ResShift(4.0, Echo(), PixelSpace()).restore(given, Noise(given["seed"]))
    assert found.shape == given["hr"].shape


@pytest.mark.parametrize("scale", [1.5, 2.5, 3.0, 4.0])
def test_fractional_scales_are_padded_to_whole_latents(scale):
    given = batch(6, 14)
    given["size"] = (round(6 * scale), round(14 * scale))
    found = ResShift(scale, Echo(), PixelSpace()).restore(given, Noise(given["seed"]))
    assert found.shape == (2, 3, *given["size"])


def test_latents_and_released_weights(tmp_path):
    def make():
        return ResShift(2.0, SwinUNet(**SMALL), small_vq())

    torch.manual_seed(1)
    method = make()
    assert all(not name.startswith("space.") for name in method.checkpoint_keys())
    official = {f"module.{k}": torch.randn_like(v) for k, v in method.network.state_dict().items()}
    official["module.input_blocks.1.1.blocks.1.attn_mask"] = released_mask(16, 16, 8, 4)
    torch.save({"state_dict": official}, tmp_path / "resshift.pth")
    method.load_weights(tmp_path / "resshift.pth")
    for name, tensor in method.network.named_parameters():
        assert torch.equal(tensor, official[f"module.{name}"])
    given = batch(8, 16, 2)
    assert method.restore(given, Noise(given["seed"])).shape == given["hr"].shape


def test_a_network_that_does_not_fit_the_latents_is_refused():
    method = ResShift(2.0, SwinUNet(**SMALL), PixelSpace())
    given = batch(8, 16, 1)
    with pytest.raises(ValueError, match=r"is 16x32, and LR 8x16: set .* to 0\.5"):
        method.restore(given, Noise(given["seed"]))


# ---------------------------------------------------------------------------- the perceptual part


class Distance(nn.Module):
    """The mean squared difference, as a perceptual distance would come."""

    source = ""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1, bias=False)
        self.layer.weight.data = torch.eye(3)[:, :, None, None]
        self.seen = []

    def forward(self, a, b):
        self.seen.append((a, b))
        return (self.layer(a - b)).square().mean((1, 2, 3))


def perceptual(distance, **options):
    """A method in small latents whose network always gives the same latent."""
    torch.manual_seed(2)
    network = Oracle(nn.Parameter(torch.randn(2, 3, 16, 16)))
    method = ResShift(4.0, network, small_vq(), perceptual=distance, **options)
    method.log = lambda *_, **__: None
    return method


@pytest.mark.parametrize("target", ["round_trip", "hr"])
def test_the_perceptual_part_is_of_decoded_images(target):
    given, distance = batch(), Distance()
    method = perceptual(distance, perceptual_weight=3.0, perceptual_target=target)
    loss = method.training_step(given, 0)
    (ours, theirs), answer = distance.seen[0], method.network.answer
    space = method.space
    round_trip = space.decode(space.encode(given["hr"])).clamp(0, 1)
    assert torch.equal(ours, space.decode(answer).clamp(0, 1))
    assert torch.equal(theirs, given["hr"] if target == "hr" else round_trip)
    expected = (answer - space.encode(given["hr"])).square().mean()
    expected = expected + 3 * (ours - theirs).square().mean()
    torch.testing.assert_close(loss, expected)

    loss.backward()
    mse = perceptual(None)
    mse.training_step(given, 0).backward()
    through_decoder = answer.grad - mse.network.answer.grad
    assert through_decoder.abs().max() > 1e-6
    frozen = [*space.parameters(), *distance.parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in frozen)
    assert {name.split(".")[0] for name in method.checkpoint_keys()} == {"network"}


# ------------------------------------------------------------------------------------ frozen parts


def test_weights_of_another_process_are_warned_about(tmp_path, caplog):
    """Their tensors fit, and their outputs would be wrong without a word."""
    space, process = PixelSpace(deviation=[0.5]), ResidualShift(4, min_noise=0.2)
    four = ResShift(4.0, SwinUNet(**SMALL), space, process)
    four.load_weights(save_run(four, tmp_path / "a.ckpt"))
    assert "process" not in caplog.text
    ResShift(4.0, SwinUNet(**SMALL), PixelSpace()).load_weights(tmp_path / "a.ckpt")
    assert "(space.deviation [1.0], there [0.5]; process.steps 15, there 4; pro" in caplog.text
    assert "process.min_noise 0.04, there 0.2)" in caplog.text


def test_latents_that_come_along_are_taken():
    given = batch()
    z, y = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    method = ResShift(4.0, Echo(), small_vq())
    given |= {"latent": z, "lr_latent": y, "space": method.space.identity}
    del given["hr"]
    found = latent_pair(method.space, given)
    assert torch.equal(found[0], z)
    assert torch.equal(found[1], y)
    del given["lr_latent"]
    y = method.space.encode(enlarged(given["lr"], given["size"]))
    torch.testing.assert_close(latent_pair(method.space, given)[1], y)


@pytest.mark.parametrize("compiled", [False, True])
def test_an_autoencoder_is_compiled_where_the_network_is(compiled):
    method = ResShift(4.0, SwinUNet(**SMALL, compile=compiled), small_vq())
    method.space.source = "trained"
    method.setup("fit")
    assert (method.space.vae.encoder._compiled_call_impl is not None) == compiled
