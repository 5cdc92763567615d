"""Colours under transparent pixels do not spread."""

from __future__ import annotations

import numpy as np
import pytest

from files.images.alpha import without_hidden_colours


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_hidden_pixels_get_the_colour_of_the_nearest_that_is_seen(kind):
    """One colour per half, so that either of two equally near pixels gives the same."""
    alpha = np.full((17, 23), np.iinfo(kind).max, kind)
    alpha[:, 8:15] = 0
    rgb = np.zeros((17, 23, 3), kind)
    rgb[:, :11], rgb[:, 11:] = (200, 10, 20), (30, 40, np.iinfo(kind).max)
    spoiled = np.where(alpha[..., None] == 0, 77, rgb).astype(kind)
    found = without_hidden_colours(spoiled, alpha)
    assert found.dtype == kind
    np.testing.assert_array_equal(np.delete(found, 11, 1), np.delete(rgb, 11, 1))
    assert not (found == 77).any()
