"""Image files as read by the commands of callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from callbacks.metrics.sets import read_image
from callbacks.predict.files import Extras, encode
from datamodules.files.decode import decode
from degradations.images import read_levels
from files.deep import eight_bits
from tests.datamodules.profiles import grey_profile, rgb_profile

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


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("profile", [None, rgb_profile(), grey_profile()])
@pytest.mark.parametrize("format", ["png", "tiff"])
def test_16_bits_are_rounded_as_in_evaluation(
    tmp_path: Path, format: Any, profile: bytes | None, channels: int
) -> None:
    """Pillow reads colours without their low bytes."""
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (8, 16, channels), np.uint16)
    path = tmp_path / "a"
    path.write_bytes(encode(pixels, Extras(profile), format, 95))
    expected = eight_bits(decode(path.read_bytes(), "a", srgb=True).rgb)
    found = (read_image(path)[0].permute(1, 2, 0) * 255).numpy()
    np.testing.assert_array_equal(found, expected)
    if channels < 4:
        np.testing.assert_array_equal(read_levels(path), expected)
