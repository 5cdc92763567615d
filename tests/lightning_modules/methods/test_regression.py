"""Regression: any network, two losses, the layout in memory, official weights."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from torch import Tensor

from lightning_modules.methods.regression import Regression
from lightning_modules.networks.edsr import EDSR
from lightning_modules.networks.imdn import IMDN
from lightning_modules.networks.liif import LIIF
from lightning_modules.sampling.tiling import Tiling
from tests.make import Convolution, Resizing, batch_of

NETWORKS = {
    "EDSR": functools.partial(EDSR, blocks=1, channels=8),
    "IMDN": functools.partial(IMDN, channels=16, blocks=2),
    "LIIF": functools.partial(LIIF, blocks=1, channels=8, hidden=(16, 16)),
    "Convolution": Convolution,
    "Resizing": Resizing,
}


pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log:UserWarning")


class TestNetworks:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_any_network(self, name):
        torch.manual_seed(0)
        model, batch = Regression(2, NETWORKS[name]).eval(), batch_of(2, side=12)
        sr = model.validation_step(batch, 0)["sr"]
        assert sr.shape == batch["hr"].shape
        model.training_step(batch, 0).backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)

    def test_a_network_that_is_built_is_in_the_state_once(self):
        """Weights fit, whether Python or the command line built the network."""
        built, made = Regression(2, Convolution(2)), Regression(2, Convolution)
        assert list(built.state_dict()) == list(made.state_dict())
        built.load_state_dict(made.state_dict())

    def test_weights_and_images_are_in_that_layout(self):
        seen: list[Tensor] = []

        class Watched(Convolution):
            def forward(self, lr: Tensor) -> Tensor:
                seen.append(lr)
                return super().forward(lr)

        model = Regression(2, Watched)
        model.training_step(batch_of(2, side=12), 0)
        layout = torch.channels_last
        assert seen[-1].is_contiguous(memory_format=layout)
        assert model.network.conv.weight.is_contiguous(memory_format=layout)


def test_the_loss_is_l1():
    model, batch = Regression(2, Convolution), batch_of()
    loss = model.training_step(batch, 0)
    expected = (model(batch["lr"], batch["size"]) - batch["hr"]).abs().mean()
    torch.testing.assert_close(loss, expected)


def test_self_ensemble():
    """The mean over the eight turns; in tiles at a fractional scale the same."""
    torch.manual_seed(0)
    network = LIIF(1.5, blocks=1, channels=8, hidden=(16, 16)).eval()
    model = Regression(1.5, network, self_ensemble=True).eval()
    lr = torch.rand(2, 3, 40, 52)
    batch = {"key": ["a", "b"], "seed": torch.arange(2), "lr": lr, "size": (60, 78)}

    whole = model.enlarge(batch)["sr"]
    model.set_tiling(Tiling(size=32))
    in_tiles = model.enlarge(batch, tiled=True)["sr"]

    outputs = []
    for turns, mirrors in itertools.product(range(4), ([], [3])):
        turned = torch.rot90(lr, turns, (2, 3)).flip(mirrors)
        size = (60, 78) if turns % 2 == 0 else (78, 60)
        with torch.no_grad():
            outputs.append(torch.rot90(network(turned, size).flip(mirrors), -turns, (2, 3)))
    expected = torch.stack(outputs).mean(0)
    assert model.tile_count == 6
    assert (outputs[0] - expected).abs().max() > 1e-3
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(in_tiles, expected, rtol=0, atol=1e-5)


class Finished(Convolution):
    """Comes with its weights."""

    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self.weights_source = "/models/finished.pth"


def test_a_network_that_has_its_weights():
    model = Regression(2, Finished)
    assert model.weights_source == "/models/finished.pth"
    assert not model.needs_weights
    assert Regression(2, Convolution).needs_weights
