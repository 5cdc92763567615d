"""Regression: any network, its loss, the layout in memory, the mean over turned images."""

from __future__ import annotations

import itertools

import pytest
import torch

from lightning_modules import LIIF, Regression
from lightning_modules.sampling.tiling import Tiling
from tests import make
from tests.make import assert_near


@pytest.mark.parametrize(("name", "eps"), [("l1", 0), ("charbonnier", 1e-3)])
def test_the_loss_is_l1_or_charbonnier(name, eps):
    """sqrt(d^2 + eps^2) of each difference d, with the eps of LapSRN."""
    model = make.quiet(Regression(2, make.Resizing, loss=name))
    batch = make.batch_of()
    loss = model.training_step(batch, 0)
    difference = model(batch["lr"], batch["size"]) - batch["hr"]
    expected = (difference.double().square() + eps**2).sqrt().mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-7, atol=0)


def test_a_network_and_its_class_have_the_same_names_of_weights():
    """So a run of a command, which passes the class, loads in Python, which may pass a network."""
    of_network = Regression(2, make.Convolution(2))
    of_class = Regression(2, make.Convolution)
    assert list(of_network.state_dict()) == list(of_class.state_dict())


class Watched(make.Convolution):
    """Keeps its input, and comes with its weights."""

    weights_source = "/models/finished.pth"

    def forward(self, lr):
        self.lr = lr
        return super().forward(lr)


def test_weights_and_images_are_channels_last():
    """The layout in memory in which convolutions are fastest."""
    model = make.quiet(Regression(2, Watched))
    model.training_step(make.batch_of(side=12), 0)
    assert model.network.lr.is_contiguous(memory_format=torch.channels_last)
    assert model.network.conv.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_noise_is_added_to_lr_in_training_by_its_probability(probability):
    model = make.quiet(Regression(2, Watched, noise_probability=probability))
    batch = make.batch_of()
    model.training_step(batch, 0)
    is_noisy = (model.network.lr != batch["lr"]).flatten(1).any(1)
    assert is_noisy.tolist() == [bool(probability)] * 2


def test_a_network_that_comes_with_weights_needs_no_file():
    model = Regression(2, Watched)
    assert model.weights_source == "/models/finished.pth"
    assert not model.needs_weights
    assert Regression(2, make.Convolution).needs_weights


def test_self_ensemble_is_the_mean_over_the_eight_turns():
    """Four rotations, each as it is and mirrored; at a fractional scale, and the same in tiles."""
    torch.manual_seed(0)
    network = LIIF(1.5, blocks=1, channels=8, hidden=(16, 16)).eval()
    model = Regression(1.5, network, self_ensemble=True).eval()
    batch = make.lr_batch(40, 52, scale=1.5)

    sr = model.enlarge(batch)["sr"]
    model.set_tiling(Tiling(size=32))
    in_tiles = model.enlarge(batch, tiled=True)["sr"]

    outputs = []
    for turns, mirrored in itertools.product(range(4), ([], [3])):
        turned = torch.rot90(batch["lr"], turns, (2, 3)).flip(mirrored)
        size = (60, 78) if turns % 2 == 0 else (78, 60)  # 40 x 52 times 1.5
        with torch.no_grad():
            output = network(turned, size).flip(mirrored)
        outputs.append(torch.rot90(output, -turns, (2, 3)))
    expected = torch.stack(outputs).mean(0)
    assert model.tile_count == 6  # two rows of three
    assert (outputs[0] - expected).abs().max() > 1e-3  # turns differ
    assert_near(sr, expected, 1e-5)
    assert_near(in_tiles, expected, 1e-5)
