"""Photos: all exist, and no scene is on both sides of a split."""

from __future__ import annotations

import pytest

from datamodules.sources import photos
from datamodules.sources.photos import PHOTOS, Photos, photo_path


@pytest.mark.parametrize("name", PHOTOS)
def test_each_photograph_can_be_read(name):
    source = Photos([name])
    source.prepare(2.0)
    assert source.keys == [name]
    hr = source.read(0)["hr"]
    assert hr.ndim == 3
    assert min(hr.shape[:2]) >= 300
    assert hr.std() > 5  # an image, not a blank


def test_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"'chealsea'.*did you mean 'chelsea'"):
        Photos(["chealsea"])


def test_missing_package(monkeypatch):
    monkeypatch.setattr(photos, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="'china' is part of scikit-learn, which is not installed"):
        photo_path("china")
