"""Image files as read by the commands of callbacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from callbacks.metrics.sets import find_images, read_image
from datamodules.files.decode import decode
from tests.datamodules.profiles import grey_profile, rgb_profile

LEVELS = np.arange(0, 65536, 257, np.uint16).reshape(16, 16)


@pytest.mark.parametrize("kind", ["png", "tif", "big-endian.tif"])
def test_grey_of_16_bits_keeps_its_levels(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"  # 100 is less than half a level of 8 bits
    if kind == "png":
        Image.fromarray(np.where(LEVELS < 65535, LEVELS + np.uint16(100), LEVELS)).save(path)
    else:
        tifffile.imwrite(path, LEVELS, byteorder=">" if "big" in kind else "<")
    expected = np.arange(256, dtype=np.float32).reshape(16, 16) / 255
    image = read_image(path)
    assert image.shape == (1, 3, 16, 16)
    for channel in image[0].numpy():
        np.testing.assert_array_equal(channel, expected)


def test_16_bits_are_turned_as_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.fromarray(LEVELS[:8]).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.shape == (1, 3, 16, 8)
    expected = np.rot90(np.arange(128, dtype=np.float32).reshape(8, 16) / 255, -1)
    np.testing.assert_array_equal(image[0, 0].numpy(), expected)


RGB = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("kind", "what"),
    [(k, w) for k in ("PNG", "TIFF", "WEBP") for w in ("orientation", "profile", "grey profile")]
    + [("PNG", "broken exif"), ("WEBP", "broken exif")],  # a TIFF's is its own directory
)
def test_an_image_is_read_as_evaluation_reads_it(tmp_path: Path, kind: str, what: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    options = {
        "orientation": {"exif": exif, "icc_profile": rgb_profile()},
        "broken exif": {"exif": b"Exif\0\0no tags at all"},
        "profile": {"icc_profile": rgb_profile()},
        "grey profile": {"icc_profile": grey_profile()},
    }[what]
    if kind == "WEBP":
        options["lossless"] = True
    pixels = RGB[..., 0] if what == "grey profile" and kind != "WEBP" else RGB
    path = tmp_path / "a"
    Image.fromarray(pixels).save(path, kind, **options)
    expected = decode(path.read_bytes(), "a", srgb=True).rgb
    found = (read_image(path)[0].permute(1, 2, 0) * 255).numpy()
    np.testing.assert_array_equal(found, expected)


def test_images_are_found_as_training_finds_them(tmp_path: Path) -> None:
    there, elsewhere = tmp_path / "there", tmp_path / "elsewhere"
    for folder in (there, elsewhere):
        folder.mkdir()
    for name in (there / "a.png", elsewhere / "b.gif", there / "._a.png", there / "a.txt"):
        name.write_bytes(b"")
    (there / "link").symlink_to(elsewhere)
    assert find_images([there]) == [there / "a.png", there / "link" / "b.gif"]
    assert find_images([there, there / "a.txt"])[1] == there / "a.txt"
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        find_images([tmp_path / "none"])
