"""NSARM's benchmark: rows that say the same, and factors from numbers of tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.speed import nsarm
from benchmarks.speed.nsarm import Parts, measure, predicted, uncached
from lightning_modules.networks.scales import Scales, published
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


def test_what_the_numbers_of_tokens_predict():
    scales = Scales([(1, 1), (1, 2), (1, 3)])
    # Without a cache 1 + 2 and 1 + 2 + 3 tokens; pairs of the first are 1, then 2 x 3, then 3 x 6.
    assert predicted(scales, known=1) == {"linear": 1.5, "pairs": round((7 + 25) / 25, 3)}
    sums = 921 + 1497 + 2521 + 4121 + 6425 + 10_521
    assert predicted(published(1.0, "1M", 2))["linear"] == round(sums / 10_521, 3)


@pytest.mark.slow
def test_a_row(monkeypatch):
    monkeypatch.setattr(nsarm, "published", lambda *_: SMALL)
    found = measure("one pass", 1 / 28, 1 / 40, 1, "cpu")
    assert found["seconds"] == pytest.approx(
        found["mapper"] + found["transformer"] + found["decode"], rel=0.01
    )
    assert found["cache_formula"] == 2 * 128 * SMALL.tokens * 4
    assert found["parameters"]["mapper"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says it")
def test_what_keys_and_values_take_is_measured():
    torch.manual_seed(0)
    parts = Parts(1 / 28, 3 / 40, "cpu")
    with torch.inference_mode():
        found = nsarm.cache_bytes(parts)
    assert found["cache_formula"] == 2 * 3 * 128 * 10_521 * 4
    assert found["cache_bytes"] == pytest.approx(found["cache_formula"], rel=0.1)
