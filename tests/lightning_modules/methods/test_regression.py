"""Regression: any network, two losses, the layout in memory, official weights."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from lightning_modules.methods.regression import Regression
from lightning_modules.networks.edsr import EDSR
from lightning_modules.networks.imdn import IMDN
from lightning_modules.networks.liif import LIIF
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
