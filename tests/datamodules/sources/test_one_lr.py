"""OneLR: the same LR at every scale, as made with Pillow by the scripts of the papers on faces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

from datamodules.base import SRDataModule
from datamodules.sources.crops import OneLR
from tests.datamodules.memory import Memory, evaluation, random_image

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


@pytest.mark.parametrize(
    ("sample", "lr_side", "message"),
    [
        (
            {"hr": random_image(32, 32), "lr": random_image(16, 16)},
            8,
            "a is already a pair of HR and LR",
        ),
        ({"hr": random_image(31, 40)}, (8, 10), r"a is 40x31 pixels, smaller than the HR of 40x32"),
        (
            {"hr": random_image(40, 60)},
            8,
            r"a is 60x40 pixels, and OneLR\.lr_side 8x8 would distort",
        ),
    ],
)
def test_what_cannot_be(sample, lr_side, message):
    source = OneLR(Memory({"a": sample}), lr_side)
    source.prepare(4)
    with pytest.raises(ValueError, match=message):
        source.read(0)
