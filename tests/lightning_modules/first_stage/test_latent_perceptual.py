"""LPIPS of latents is learnt from judgements, by the shipped experiment, and loads as a loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_modules.backbone.space import PixelSpace
from lightning_modules.first_stage.latent_perceptual import LatentPerceptual, Ranking, agreement

WIDTHS = (8, 8, 8, 8, 8)


def model(**arguments: Any) -> LatentPerceptual:
    torch.manual_seed(0)
    settings = {"space": PixelSpace(), "widths": WIDTHS, "vgg16": None, **arguments}
    return LatentPerceptual(1.0, **settings)


def batch(count: int = 4) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    ref, p0, p1 = torch.rand(3, count, 3, 8, 8, generator=generator).unbind(0)
    return {"ref": ref, "p0": p0, "p1": p1, "judge": torch.linspace(0, 1, count)}


# -------------------------------------------------------------------------------------- what it is


def test_the_distances_are_those_of_the_network() -> None:
    trained, given = model().eval(), batch()
    found = trained.distances(given)  # type: ignore[arg-type]
    for distance, part in zip(found, ("p0", "p1"), strict=True):
        expected = trained.network(given["ref"] * 2 - 1, given[part] * 2 - 1)
        torch.testing.assert_close(distance, expected)


def test_agreement_of_people_and_distances() -> None:
    near, far = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([2.0, 1.0, 1.0])
    judge = torch.tensor([0.25, 0.75, 1.0])  # the last ones are equally far
    assert agreement(near, far, judge).tolist() == [0.75, 0.75, 0.5]


def test_the_ranking_sees_both_and_their_ratios() -> None:
    seen: list[Tensor] = []
    ranking = Ranking()
    ranking.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    assert ranking(torch.tensor([0.4, 0.1]), torch.tensor([0.9, 0.1])).shape == (2,)
    expected = torch.tensor([[0.4, 0.9, -0.5, 0.4, 1.8], [0.1, 0.1, 0.0, 0.5, 0.5]])
    torch.testing.assert_close(seen[0], expected)
