"""Photos: all exist, and no scene is on both sides of a split."""

from __future__ import annotations

import pytest

from datamodules.sources.photos import PHOTOS, Photos


@pytest.mark.parametrize("name", PHOTOS)
def test_each_photograph_can_be_read(name):
    source = Photos([name])
    source.prepare(2.0)
    assert source.keys == [name]
    hr = source.read(0)["hr"]
    assert hr.ndim == 3
    assert min(hr.shape[:2]) >= 300
    assert hr.std() > 5  # an image, not a blank
