"""Weights that are fitted strictly, and frozen ones that checkpoints name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from files.tensors import bare_names
from lightning_modules.weights import check_sources, load_strictly, sources


class Part(nn.Module):
    def __init__(self, source, frozen):
        super().__init__()
        self.layer, self.source = nn.Linear(2, 2), source
        self.requires_grad_(not frozen)


def whole(first="a/b 0123456789abcdef", frozen=True):
    model = nn.Module()
    model.first = Part(first, frozen)
    model.second = Part("trained/from 00000000000000ff", frozen=False)
    model.third = nn.Module()
    model.third.source = "prompt 00000000000000aa"  # no weights, but what it holds was loaded
    model.fourth = Part("", frozen=True)
    return model


def test_names_before_wrapping():
    names = ["_orig_mod.a", "module.b", "module._orig_mod.c", "x._orig_mod.d", "x.module.e", "f"]
    found = bare_names({name: torch.tensor(n) for n, name in enumerate(names)})
    expected = {"a": 0, "b": 1, "c": 2, "x.d": 3, "x.module.e": 4, "f": 5}
    assert {name: int(value) for name, value in found.items()} == expected


def test_tensors_fit_or_are_named():
    layer, state = nn.Linear(2, 3), nn.Linear(2, 3).state_dict()
    load_strictly(layer, state, "file.pth")
    assert torch.equal(layer.weight, state["weight"])
    wrong = {"weight": torch.zeros(3, 4), "extra": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"\(bias\);.*\(extra\);.*\(weight 3x4 for 3x2\)"):
        load_strictly(layer, wrong, "file.pth")
    assert torch.equal(layer.weight, state["weight"])


def test_frozen_parts_are_named():
    assert sources(whole()) == {
        "first": "a/b 0123456789abcdef",
        "third": "prompt 00000000000000aa",
    }
    assert "first" not in sources(whole(frozen=False))
    adapted = whole()
    adapted.first.adapter = nn.Linear(2, 2)  # trains beside what is frozen
    assert "first" in sources(adapted)


def test_other_frozen_weights_are_refused():
    stored = sources(whole())
    check_sources(whole("moved/elsewhere 0123456789abcdef"), stored)
    with pytest.raises(ValueError, match=r"trained with first from a/b .*here it is a/b f{16}"):
        check_sources(whole("a/b ffffffffffffffff"), stored)
    with pytest.raises(ValueError, match="here it is missing: set the same weights"):
        check_sources(whole(frozen=False), stored)
