"""Crops: positions, keys, and images that cannot be cut."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.base import Source
from datamodules.sources.clips import MovingCrops
from datamodules.sources.crops import Crops, OneLR
from degradations.bicubic import Bicubic


class Numbered(Source):
    """Images in which every pixel encodes its image, row and column."""

    def __init__(self, sizes=((40, 60), (64, 48)), pairs=False):
        super().__init__()
        self.sizes, self.pairs, self.reads = sizes, pairs, []

    @property
    def keys(self):
        return [f"p{i}" for i in range(len(self.sizes))]

    @property
    def groups(self):
        return [1] * len(self.sizes)

    def read(self, index):
        self.reads.append(index)
        rows, columns = np.indices(self.sizes[index])
        hr = np.stack([np.full(rows.shape, index), rows, columns], -1).astype(np.uint8)
        return {"hr": hr, "lr": hr[::2, ::2]} if self.pairs else {"hr": hr, "text": f"{index}"}


def crops_of(source, *arguments, **options):
    made = Crops(source, *arguments, **options)
    made.prepare(2.0)
    return made


def corners(crops):
    return [tuple(crops.read(i)["hr"][0, 0].tolist()) for i in range(len(crops.keys))]


def test_squares_lie_within_their_images():
    crops = crops_of(Numbered(), size=32, per_image=50)
    assert len(crops.keys) == len(set(crops.keys)) == 100
    assert crops.groups == [50, 50]
    for index, (image, top, left) in enumerate(corners(crops)):
        sample = crops.read(index)
        assert image == index // 50
        assert sample["text"] == str(image)
        rows, columns = np.indices((32, 32))
        np.testing.assert_array_equal(sample["hr"][..., 1], rows + top)
        np.testing.assert_array_equal(sample["hr"][..., 2], columns + left)
    tops = {top for image, top, _ in corners(crops) if image == 0}
    assert min(tops) == 0  # every position is possible
    assert max(tops) == 40 - 32


def test_a_place_follows_from_the_name_alone():
    places = dict(
        zip(crops_of(Numbered(), 32, 5).keys, corners(crops_of(Numbered(), 32, 5)), strict=True)
    )
    few = crops_of(Numbered(), 32, 2)
    assert [places[key] for key in few.keys] == corners(few)
    assert len(set(places.values())) > 5


@pytest.mark.parametrize(
    ("name", "around"),
    [
        ("Crops", lambda source: Crops(source, 16)),
        ("OneLR", lambda source: OneLR(source, 8)),
        ("MovingCrops", lambda source: MovingCrops(source, 8)),
    ],
)
def test_settings_of_the_inner_source_do_not_vanish(name, around):
    source = Numbered()
    source.degradation = Bicubic(2.0)
    with pytest.raises(ValueError, match=rf"{name}\.source has its own degradation"):
        around(source).prepare(2.0)
    source.degradation, source.scale = None, 3.0
    with pytest.raises(ValueError, match=rf"{name}\.source has scale 3, but {name} is used at 2"):
        around(source).prepare(2.0)
    around(source).prepare(3.0)


def test_what_cannot_be_cut():
    with pytest.raises(
        ValueError, match=r"p0 is 60x40 pixels, smaller than the square of 48 that Crops"
    ):
        crops_of(Numbered(), size=48).read(0)
    with pytest.raises(ValueError, match="p0 is a pair"):
        Crops(Numbered(pairs=True), size=16).read(0)
