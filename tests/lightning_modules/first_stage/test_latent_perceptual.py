"""LPIPS of latents is learnt from judgements of people."""

from __future__ import annotations

from functools import partial

import torch
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_modules import LatentPerceptual, PixelSpace, Ranking
from lightning_modules.first_stage.latent_perceptual import agreement
from tests import make
from tests.datamodules.memory import trainer

BATCH = make.batch(2, (8, 8), ref=(3, 8, 8), p0=(3, 8, 8), p1=(3, 8, 8))
BATCH["judge"] = torch.tensor([0.0, 1.0])


def latent_perceptual(**settings):
    """In pixels, without dropout."""
    torch.manual_seed(0)
    space = PixelSpace()
    return LatentPerceptual(1.0, space, widths=(8,) * 5, vgg16=None, **settings).eval()


def test_both_distances_are_those_of_the_network_to_the_reference():
    model = latent_perceptual()

    first, second = model.distances(BATCH)

    reference = BATCH["ref"] * 2 - 1
    assert_close(first, model.network(reference, BATCH["p0"] * 2 - 1))
    assert_close(second, model.network(reference, BATCH["p1"] * 2 - 1))


def test_the_loss_is_the_cross_entropy_of_the_ranking_and_the_share_of_people_for_the_second():
    model = make.quiet(latent_perceptual())

    loss = model.training_step(BATCH, 0)

    predicted = model.ranking(*model.distances(BATCH)).sigmoid()
    of_none = -(1 - predicted[0]).log()  # judge 0: no one chose the second image
    of_all = -predicted[1].log()
    assert_close(loss, (of_none + of_all) / 2)


def test_weights_of_channels_are_clamped_to_0_in_training(tmp_path):
    """As in LPIPS: a difference in a channel, `lin` in names, never makes images nearer.

    A rate of 100 takes some of them below 0 in a single step.
    """
    model = latent_perceptual(optimizer=partial(torch.optim.SGD, lr=100.0))
    trainer(tmp_path, max_steps=1).fit(model, DataLoader([BATCH], batch_size=None))
    weights = [w for name, w in model.network.named_parameters() if name.startswith("lin")]
    assert all((weight >= 0).all() for weight in weights)
    assert any((weight == 0).any() for weight in weights)


def test_agreement_is_the_share_of_people_who_chose_the_nearer_image():
    first = torch.tensor([1.0, 2.0, 1.0])
    second = torch.tensor([2.0, 1.0, 1.0])  # the last ones are equally far
    share_for_second = torch.tensor([0.25, 0.75, 1.0])
    # The first is nearer; the second is nearer; half, whatever people chose.
    assert agreement(first, second, share_for_second).tolist() == [0.75, 0.75, 0.5]


def test_the_ranking_sees_both_distances_their_difference_and_their_ratios():
    ranking = Ranking()
    inputs = []
    ranking.layers[0].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    ranking(torch.tensor([0.4, 0.1]), torch.tensor([0.9, 0.1]))
    # Divisors are 0.1 larger, as in the released LPIPS: 0.4 / 1.0 and 0.9 / 0.5.
    expected = torch.tensor([[0.4, 0.9, -0.5, 0.4, 1.8], [0.1, 0.1, 0.0, 0.5, 0.5]])
    assert_close(inputs[0], expected)
