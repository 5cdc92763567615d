"""PredictImages: the data for the model, and for the writer."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

from datamodules.base import SRDataModule
from datamodules.order.plan import Item
from datamodules.samples import PredictImages
from tests.datamodules.memory import Memory, random_image
from tests.datamodules.profiles import rgb_profile, srgb_of_rgb


def test_hidden_colours_and_stale_exif_do_not_reach_the_model():
    alpha = np.array([[0, 255]], np.uint8)
    tags = Image.Exif()
    tags[Base.Orientation], tags[Base.Make] = 6, "Maker"
    meta = {"alpha": alpha, "exif": tags.tobytes(), "mode": "RGBA"}
    rgb = np.array([[[255, 0, 255], [1, 2, 3]]], np.uint8)
    sample = PredictImages(Memory({"a": {"hr": rgb, "meta": meta}}), "predict", 2)[Item(0, 0)]
    assert sample["lr"].tolist() == [[[1, 2, 3], [1, 2, 3]]]
    kept = Image.Exif()
    kept.load(sample["meta"]["exif"])
    assert dict(kept) == {Base.Orientation: 1, Base.Make: "Maker"}


def test_profiles_are_converted_where_that_is_asked_for(tmp_path):
    levels = random_image(8, 8)
    Image.fromarray(levels).save(tmp_path / "a.png", icc_profile=rgb_profile())
    data = SRDataModule(2, predict=str(tmp_path), workers=0)
    data.setup("predict")
    (kept,) = data.predict_dataloader()[0]
    assert kept["meta"][0]["icc"] == rgb_profile()
    data.convert_in_predict()
    (converted,) = data.predict_dataloader()[0]
    assert converted["meta"][0]["icc"] is None
    for batch, expected in ((kept, levels), (converted, srgb_of_rgb(levels))):
        found = batch["lr"][0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(found, expected, atol=1)


def test_a_pair_is_refused():
    """Its meta, such as profile and alpha, is that of HR, and would be written with LR."""
    source = Memory({"a": {"hr": random_image(8, 8), "lr": random_image(4, 4)}})
    with pytest.raises(ValueError, match="predict/a is a pair of HR and LR"):
        PredictImages(source, "predict", 2)[Item(0, 0)]
