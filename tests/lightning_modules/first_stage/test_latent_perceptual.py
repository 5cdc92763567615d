"""LPIPS of latents is learnt from judgements of people."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from lightning_modules import LatentPerceptual, PixelSpace, Ranking
from lightning_modules.first_stage.latent_perceptual import agreement
from tests import make


def test_both_distances_are_those_of_the_network_to_the_reference():
    model = LatentPerceptual(1.0, space=PixelSpace(), widths=(8,) * 5, vgg16=None).eval()
    batch = make.batch(4, (8, 8), ref=(3, 8, 8), p0=(3, 8, 8), p1=(3, 8, 8))

    first, second = model.distances(batch)

    reference = batch["ref"] * 2 - 1
    assert_close(first, model.network(reference, batch["p0"] * 2 - 1))
    assert_close(second, model.network(reference, batch["p1"] * 2 - 1))


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
