"""ResShift: its training, its sampling, and released weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.backbone.space import PixelSpace, VQSpace
from lightning_modules.networks.swin_unet import SwinUNet
from lightning_modules.networks.vq import resshift_vq
from lightning_modules.noise import Noise
from lightning_modules.resshift import ResShift

SMALL = {"width": 32, "multipliers": (1, 2), "size": 16, "swin_width": 48, "heads": 3}


class Oracle(nn.Module):
    """Knows the answer, and notes what it was told."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.weight = nn.Parameter(torch.zeros(()))
        self.told = []

    def forward(self, x, t, lr):
        self.told.append(t.tolist())
        return functional.pad(self.answer, (0, x.shape[-1] - self.answer.shape[-1]))[: len(x)]


def batch(h=8, w=8, scale=4, count=2):
    generator = torch.Generator().manual_seed(0)
    size = (h * scale, w * scale)
    return {
        "key": [str(i) for i in range(count)],
        "seed": torch.arange(count),
        "lr": torch.rand(count, 3, h, w, generator=generator),
        "hr": torch.rand(count, 3, *size, generator=generator),
        "size": size,
    }


class Echo(nn.Module):
    """Believes all that it sees, if it has the right size."""

    divisor = 16

    def forward(self, x, t, lr):
        assert x.shape[-2] % 16 == x.shape[-1] % 16 == 0
        return x


@pytest.mark.parametrize(
    ("timesteps", "told"), [(None, list(range(14, -1, -1))), ([14, 9, 4, 0], [14, 9, 4, 0])]
)
def test_an_oracle_is_believed(timesteps, told):
    """The last step gives what the network says, whatever noise there was on the way."""
    given = batch()
    oracle = Oracle(given["hr"] * 2 - 1)
    method = ResShift(4.0, oracle, PixelSpace(), timesteps=timesteps)
    found = method.restore(given, Noise(given["seed"]))
    torch.testing.assert_close(found, given["hr"], rtol=0, atol=1e-6)
    assert oracle.told == [[t, t] for t in told]


def test_the_loss_is_that_of_what_was_mixed():
    given = batch()
    method = ResShift(4.0, Oracle(given["hr"] * 2 - 1), PixelSpace())
    method.log = lambda *_, **__: None
    assert method.training_step(given, 0) < 1e-10
    method.network.answer = torch.zeros_like(given["hr"])
    expected = (given["hr"] * 2 - 1).square().mean()
    torch.testing.assert_close(method.training_step(given, 0), expected)


@pytest.mark.parametrize("prediction", ["sample", "residual", "epsilon"])
def test_it_learns_one_picture(prediction):
    """In pixels, at the LR's own size: a network of one convolution finds the constant shift."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Conv2d(6, 3, 1)

        def forward(self, x, t, lr):
            return self.inner(torch.cat([x, lr], 1))

    torch.manual_seed(0)
    given = batch(scale=1, count=4)
    given["hr"] = 1 - given["lr"]
    method = ResShift(1.0, Small(), PixelSpace(), ResidualShift(prediction=prediction))
    method.log = lambda *_, **__: None
    optimizer = torch.optim.Adam(method.parameters(), lr=0.05)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = method.training_step(given, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


@pytest.mark.parametrize(("h", "w"), [(5, 8), (4, 3), (1, 9)])
def test_any_size_is_padded_and_cut_again(h, w):
    given = batch(h, w)
    found = ResShift(4.0, Echo(), PixelSpace()).restore(given, Noise(given["seed"]))
    assert found.shape == given["hr"].shape


def test_noise_belongs_to_the_picture():
    given = batch()
    method = ResShift(4.0, Echo(), PixelSpace())
    both = method.restore(given, Noise(given["seed"]))
    alone = {**given, "lr": given["lr"][1:], "seed": given["seed"][1:]}
    torch.testing.assert_close(method.restore(alone, Noise(alone["seed"])), both[1:])
    other = method.restore(given, Noise(given["seed"] + 7))
    assert (other - both).abs().max() > 0.1


def test_latents_and_released_weights(tmp_path):
    def make():
        space = VQSpace(resshift_vq((32, 64), entries=16))
        return ResShift(2.0, SwinUNet(**SMALL), space)

    torch.manual_seed(1)
    method = make()
    assert all(not name.startswith("space.") for name in method.checkpoint_keys())
    official = {f"module.{k}": torch.randn_like(v) for k, v in method.network.state_dict().items()}
    official["module.input_blocks.1.1.blocks.1.attn_mask"] = torch.zeros(4, 64, 64)
    torch.save({"state_dict": official}, tmp_path / "resshift.pth")
    method.load_weights(tmp_path / "resshift.pth")
    for name, tensor in method.network.state_dict().items():
        assert torch.equal(tensor, official[f"module.{name}"])
    given = batch(8, 16, 2)
    assert method.restore(given, Noise(given["seed"])).shape == given["hr"].shape


def test_timesteps_that_do_not_fall():
    with pytest.raises(ValueError, match="a falling list of numbers from 14 to 0"):
        ResShift(4.0, Echo(), PixelSpace(), timesteps=[0, 4])
