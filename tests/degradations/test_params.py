"""Params: one transfer, types, shapes, the messages."""

from __future__ import annotations

import numpy as np
import torch

from degradations.draws import per_image, to_device

CPU = torch.device("cpu")


def drawn():
    return {
        "Blur": {"sigma": np.array([0.1, 0.2, 0.3]), "on": np.array([True, False, True])},
        "seeds": np.array([2**62 + 1, 0, -5]),
        "order": np.arange(6).reshape(3, 2),
        "nested": {"deep": {"x": np.float32([1, 2, 3])}},
        "shared": 4,
        "empty": np.zeros((3, 0)),
    }


def test_values_types_and_nesting_arrive():
    moved = to_device(drawn(), 3, CPU)
    assert moved["Blur"]["sigma"].dtype == torch.float32
    assert moved["Blur"]["sigma"].tolist() == np.float32([0.1, 0.2, 0.3]).tolist()
    assert moved["Blur"]["on"].tolist() == [True, False, True]
    assert moved["seeds"].tolist() == [2**62 + 1, 0, -5]
    assert moved["order"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert moved["nested"]["deep"]["x"].tolist() == [1, 2, 3]
    assert moved["shared"] == 4
    assert isinstance(moved["shared"], int)
    assert moved["empty"].shape == (3, 0)
    assert moved.keys() == drawn().keys()


def test_the_drawn_arrays_are_copied():
    arrays = drawn()
    moved = to_device(arrays, 3, CPU)
    moved["Blur"]["sigma"].zero_()
    assert arrays["Blur"]["sigma"][0] == 0.1


def test_one_transfer(monkeypatch):
    moves = []
    original = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, *a, **k: moves.append(a) or original(self, *a, **k)
    )
    moved = to_device(drawn(), 3, torch.device("meta"))
    assert len(moves) == 1
    assert moved["nested"]["deep"]["x"].device.type == "meta"


def test_per_image_broadcasts():
    x = torch.ones(2, 3, 4, 5)
    values = per_image(torch.tensor([1.0, 2.0], dtype=torch.float64), x)
    assert values.shape == (2, 1, 1, 1)
    assert values.dtype == torch.float32
    assert (x * values)[:, 0, 0, 0].tolist() == [1, 2]
    assert (x * per_image(3, x)).unique().tolist() == [3]
