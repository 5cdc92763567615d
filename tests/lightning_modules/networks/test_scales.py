"""Grids of next-scale models."""

from __future__ import annotations

import pytest

from lightning_modules.networks.bsq import published


@pytest.mark.parametrize(
    ("ratio", "tokens"),
    [
        (1.0, (521, 2521, 6425, 10521)),
        (1.25, (614, 2814, 6854, 10774)),
        (4 / 3, (665, 2657, 7085, 10973)),
        (1.5, (533, 2759, 6941, 10997)),
        (1.75, (472, 2628, 7220, 11252)),
        (2.0, (451, 2681, 7219, 11269)),
        (2.5, (555, 2555, 6805, 10805)),
        (3.0, (509, 2588, 7016, 11123)),
    ],
)
def test_tokens_of_the_published_grids(ratio: float, tokens: tuple[int, ...]) -> None:
    for budget, count in zip(("0.06M", "0.25M", "0.60M", "1M"), tokens, strict=True):
        tall, wide = published(ratio, budget), published(1 / ratio, budget)
        assert tall.tokens == wide.tokens == count
        assert wide.grids == tuple((w, h) for h, w in tall.grids)
        # Positions are counted in the grid of 1M pixels, whatever the budget.
        assert tall.full == published(ratio).grids[-1]
        assert wide.full == (tall.full[1], tall.full[0])


def test_nsarm() -> None:
    scales = published(patch=2)
    assert len(scales) == 13
    assert scales.latents[:7] == [(n, n) for n in (2, 4, 8, 12, 16, 24, 32)]
    assert scales.latents[-1] == (128, 128)
    # The first seven are the whole schedule of 256x256, and 10,000 tokens are left to predict.
    assert scales.grids[:7] == published(budget="0.06M").grids
    assert scales.spans[7].start == 521
    assert scales.tokens - 521 == 10_000
