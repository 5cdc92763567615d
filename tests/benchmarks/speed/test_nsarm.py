"""NSARM's benchmark: rows that say the same, and factors from numbers of tokens."""

from __future__ import annotations

import pytest
import torch

from benchmarks.speed import nsarm
from benchmarks.speed.nsarm import Parts, uncached
from lightning_modules.networks.bsq import Scales
from lightning_modules.next_scale.next_scale import Bitwise, sample

SMALL = Scales([(1, 1), (2, 2), (4, 4), (6, 6), (8, 8), (12, 12), (16, 16), (20, 20)], 2)


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setattr(nsarm, "published", lambda *_: SMALL)
    torch.manual_seed(0)
    found = Parts(1 / 28, 1 / 40, "cpu")
    with torch.no_grad():
        found.network.head.weight.mul_(1000)
        found.network.blocks[0].own.normal_()
    return found


@torch.no_grad()
def test_rows_say_the_same(parts):
    known = parts.known()
    assert [tuple(code.shape[-2:]) for code in known] == SMALL.latents[:7]
    how = Bitwise(next_input_mode="area")
    given = (parts.network, SMALL, parts.text, parts.noise(), how, known)
    expected = sample(*given)
    assert torch.equal(uncached(parts, known)[7], expected[7])
    assert all(len(parts.codes(row, known)) == 8 for row in nsarm.ROWS)
