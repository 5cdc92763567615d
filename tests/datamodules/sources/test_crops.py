"""Crops: positions, keys, and images that cannot be cut. OneLR: the same LR at every scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

from datamodules.base import Source, SRDataModule
from datamodules.sources.clips import MovingCrops
from datamodules.sources.crops import Crops, OneLR
from datamodules.sources.folder import Folder
from datamodules.sources.mix import Mix
from degradations.bicubic import Bicubic
from tests.datamodules.memory import Memory, evaluation, random_image


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
    many = crops_of(Numbered(), 32, 5)
    places = dict(zip(many.keys, corners(many), strict=True))
    few = crops_of(Numbered(), 32, 2)
    assert [places[key] for key in few.keys] == corners(few)
    assert len(set(places.values())) > 5


@pytest.mark.parametrize(
    ("name", "around"),
    [
        ("Crops", lambda source: Crops(source, 16)),
        ("OneLR", lambda source: OneLR(source, 8)),
        ("MovingCrops", lambda source: MovingCrops(source, 8)),
        ("Mix", lambda source: Mix({"a": source})),
    ],
)
def test_settings_of_the_inner_source_do_not_vanish(name, around):
    source = Numbered()
    source.degradation = Bicubic(2.0)
    with pytest.raises(ValueError, match=rf"{name}\..*has its own degradation"):
        around(source).prepare(2.0)
    source.degradation, source.scale = None, 3.0
    with pytest.raises(ValueError, match=rf"{name}\..*has its own scale"):
        around(source).prepare(2.0)
    around(source).prepare(3.0)


# ------------------------------------------------------------------------------------------ OneLR


FACES = {5.3125: 85, 7: 112, 10: 160, 10.6875: 171, 12: 192}
FACE = photographs.astronaut()[:256, 100:356]


def resized(side: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(FACE).resize(side[::-1], Image.BICUBIC))


def test_faces_at_all_their_scales():
    source = Memory({"face": {"hr": FACE, "text": "a face"}})
    sources = {str(scale): OneLR(source, 16, scale=scale) for scale in FACES}
    batches = list(evaluation(SRDataModule(10, test=sources, workers=0), "test"))
    for side, batch in zip(FACES.values(), batches, strict=True):
        assert batch["size"] == (side, side)
        assert batch["text"] == ["a face"]
        for name, size in (("hr", side), ("lr", 16)):
            expected = torch.from_numpy(resized((size, size)).copy()).permute(2, 0, 1) / 255
            assert torch.equal(batch[name][0], expected)
    assert [b["key"] for b in batches] == [[f"{scale}/face"] for scale in FACES]
    assert len({int(b["seed"]) for b in batches}) == 1  # else stages would not be shared


def test_images_that_are_no_squares():
    lr = OneLR(Memory({"a": {"hr": FACE[:171]}}), (24, 36), scale=2.7)
    lr.prepare(2.7)
    sample = lr.read(0)
    assert sample["hr"].shape == (65, 97, 3)  # 64.8 and 97.2
    assert sample["lr"].shape == (24, 36, 3)


def test_squares_keep_transparency_and_sources_within_others_are_converted(tmp_path):
    alpha = random_image(40, 40)[..., :1]
    hr = np.full((40, 40, 3), 99, np.uint8)
    Image.fromarray(np.concatenate([hr, alpha], 2)).save(tmp_path / "a.png")
    inner = Folder(str(tmp_path))
    squares = Crops(Mix({"x": inner}), size=8, per_image=1)
    squares.srgb = False
    squares.prepare(2.0)
    assert inner.srgb is False
    windows = np.lib.stride_tricks.sliding_window_view(alpha[..., 0], (8, 8))
    found = squares.read(0)["meta"]["alpha"]
    assert (windows == found).all((2, 3)).sum() == 1
