"""The run's seed and a method's own noise: in whole images, in tiles, and from nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.base import ImageModel, SuperResolver
from tests.lightning_modules.tiny import Model, Painter, batch_of


class Plain(SuperResolver):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise NotImplementedError

    def restore(self, batch: Any, noise: Any) -> Tensor:
        return functional.interpolate(batch["lr"], batch["size"])


class Tiled(Model):
    tile, tile_overlap = 16, 4


def whole(model: ImageModel, batch: Any) -> Tensor:
    return model.eval().test_step(batch, 0)["sr"]  # type: ignore[attr-defined, no-any-return]


def in_tiles(model: ImageModel, batch: Any) -> Tensor:
    return model.eval().predict_step(batch, 0)["sr"]


CASES: list[Any] = [(Model, whole, 6), (Tiled, in_tiles, 20), (Painter, whole, 6)]


@pytest.mark.parametrize(("kind", "output", "side"), CASES)
def test_the_seed_changes_what_is_drawn(
    kind: type[ImageModel], output: Callable[..., Tensor], side: int
) -> None:
    model, batch = kind(2.0), batch_of(2, side)
    first = output(model, batch)
    model.set_noise_seed(1)
    other = output(model, batch)
    model.set_noise_seed(0)
    assert torch.equal(output(model, batch), first)
    for image in range(2):
        assert not torch.equal(other[image], first[image])


@pytest.mark.parametrize(
    ("kind", "output", "draws"),
    [(Model, whole, True), (Tiled, in_tiles, True), (Painter, whole, True), (Plain, whole, False)],
)
def test_whether_anything_was_drawn_is_known(
    kind: type[ImageModel], output: Callable[..., Tensor], draws: bool
) -> None:
    model = kind(2.0)
    assert not model.drew_noise
    output(model, batch_of(1, 20))
    assert model.drew_noise == draws
