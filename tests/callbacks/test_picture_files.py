"""Pictures as the commands of callbacks read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from callbacks.picture_files import read_picture

LEVELS = np.arange(0, 65536, 257, np.uint16).reshape(16, 16)


@pytest.mark.parametrize("kind", ["png", "tif", "big-endian.tif"])
def test_grey_of_16_bits_keeps_its_levels(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"  # 100 is less than half a level of 8 bits
    if kind == "png":
        Image.fromarray(np.where(LEVELS < 65535, LEVELS + np.uint16(100), LEVELS)).save(path)
    else:
        tifffile.imwrite(path, LEVELS, byteorder=">" if "big" in kind else "<")
    expected = np.arange(256, dtype=np.float32).reshape(16, 16) / 255
    picture = read_picture(path)
    assert picture.shape == (1, 3, 16, 16)
    for channel in picture[0].numpy():
        np.testing.assert_array_equal(channel, expected)


def test_16_bits_are_turned_as_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.fromarray(LEVELS[:8]).save(tmp_path / "a.png", exif=exif)
    picture = read_picture(tmp_path / "a.png")
    assert picture.shape == (1, 3, 16, 8)
    expected = np.rot90(np.arange(128, dtype=np.float32).reshape(8, 16) / 255, -1)
    np.testing.assert_array_equal(picture[0, 0].numpy(), expected)
