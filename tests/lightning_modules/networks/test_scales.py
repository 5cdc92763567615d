"""Grids of next-scale models."""

from __future__ import annotations

import pytest

from lightning_modules.networks.bsq import RATIOS, Scales, published


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


@pytest.mark.parametrize(
    ("ratio", "sizes"),
    [
        (1.25, "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56"),
        (4 / 3, "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54"),
        (3.0, "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37"),
    ],
)
def test_the_published_grids(ratio: float, sizes: str) -> None:
    """Height first: a tall image has more rows."""
    assert [f"{h}x{w}" for h, w in published(ratio).grids] == sizes.split()
    assert published(ratio, "0.06M").grids == published(ratio).grids[:7]


def test_fifteen_ratios_and_the_nearest_is_taken() -> None:
    assert len(RATIOS) == 15
    assert published(1.3).grids == published(4 / 3).grids
    assert published(0.01).grids == published(1 / 3).grids
    assert published(100).grids == published(3.0).grids


def test_nsarm() -> None:
    scales = published(patch=2)
    assert len(scales) == 13
    assert scales.latents[:7] == [(n, n) for n in (2, 4, 8, 12, 16, 24, 32)]
    assert scales.latents[-1] == (128, 128)
    # The first seven are the whole schedule of 256x256, and 10,000 tokens are left to predict.
    assert scales.grids[:7] == published(budget="0.06M").grids
    assert scales.spans[7].start == 521
    assert scales.tokens - 521 == 10_000


def test_spans_are_where_the_tokens_are() -> None:
    scales = Scales([(1, 1), (2, 2), (2, 3)])
    assert [list(range(11))[span] for span in scales.spans] == [
        *([0], [1, 2, 3, 4], [5, 6, 7, 8, 9, 10])
    ]
    assert (scales.tokens, scales.full, scales.latents) == (11, (2, 3), [(1, 1), (2, 2), (2, 3)])
