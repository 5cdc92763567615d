"""Noise fields: per image in any batch and memory format; normal; independent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from degradations.draws import Draws
from degradations.stages import noise as fields
from degradations.stages.noise import (
    hashed_fields,
    hashed_integers,
    quick_randn_like,
    seeded_integers_like,
    seeded_randn_like,
)

SEEDS = torch.from_numpy(Draws(np.arange(16)).seeds())


def generators(shape, seeds):
    return seeded_randn_like(torch.empty(shape), seeds)


def quick(shape, seeds):
    return quick_randn_like(torch.empty(shape), seeds)


def quick_hashed(shape, seeds):
    with hashed_fields():
        return quick(shape, seeds)


@pytest.fixture(
    params=[generators, quick, quick_hashed], ids=["CPU", "table on a CPU", "table on a GPU"]
)
def fill(request):
    return lambda *shape, seeds=SEEDS: request.param(torch.Size(shape), seeds)


def test_a_field_does_not_depend_on_its_batch(fill):
    whole = fill(16, 3, 9, 11)
    for start, stop in [(0, 1), (5, 6), (13, 16)]:
        part = fill(stop - start, 3, 9, 11, seeds=SEEDS[start:stop])
        assert torch.equal(part, whole[start:stop])


def test_is_standard_normal(fill):
    field = fill(4, 3, 64, 64, seeds=SEEDS[:4])
    assert field.dtype == torch.float32
    assert field.isfinite().all()
    for image in field:
        assert stats.kstest(image.flatten(), "norm").pvalue > 1e-3


def test_images_channels_and_pixels_are_independent(fill):
    field = fill(3, 3, 64, 64, seeds=SEEDS[:3])
    rows = field.reshape(9, -1)
    assert np.abs(np.corrcoef(rows) - np.eye(9)).max() < 4 / 64
    for shift in (1, 2, 64):
        assert abs((rows * rows.roll(shift, 1)).mean()) < 4 / rows.numel() ** 0.5


def test_all_bits_of_a_seed_count(fill):
    one, other = fill(2, 3, 8, 8, seeds=torch.tensor([5, 5 + 2**40]))
    assert not torch.equal(one, other)


def test_the_hash_is_frozen():
    """The same on every machine."""
    field = hashed_integers(torch.Size((1, 3, 1, 2)), torch.tensor([2**62]), 15)
    assert field.flatten().tolist() == [17073, 17366, 29008, 21738, 3879, 10891]


def test_a_hashed_field_does_not_depend_on_its_canvas():
    small, large = (torch.Size((2, 3, *size)) for size in ((7, 9), (16, 24)))
    assert torch.equal(
        hashed_integers(large, SEEDS[:2], 11)[..., :7, :9], hashed_integers(small, SEEDS[:2], 11)
    )


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("bits", [1, 11, 15])
def test_integers_are_uniform_and_an_image_s_own(hashed, bits):
    def fill(seeds):
        if hashed:
            return hashed_integers(torch.Size((len(seeds), 3, 33, 65)), seeds, bits)
        return seeded_integers_like(torch.empty(len(seeds), 3, 33, 65), seeds, bits)

    field = fill(SEEDS[:4])
    assert field.dtype == torch.int32
    assert torch.equal(field[2:3], fill(SEEDS[2:3]))
    assert field.min() >= 0
    assert field.max() < 2**bits
    counts = np.bincount(field.flatten().numpy() >> max(bits - 4, 0), minlength=2 ** min(bits, 4))
    assert stats.chisquare(counts).pvalue > 1e-3
    rows = field.reshape(12, -1).double().numpy()
    assert np.abs(np.corrcoef(rows) - np.eye(12)).max() < 4 / rows.shape[1] ** 0.5


def test_the_table_is_exact_in_mean_and_variance_and_as_long_as_it_says():
    table = fields._normal_quantiles(torch.device("cpu")).double()
    assert table.mean().abs() < 1e-7
    assert abs(table.square().mean() - 1) < 1e-7
    assert stats.kstest(table, "norm").statistic < 1e-4
    assert 4.16 < table.max() < 4.18
