"""Image files as read by the commands of callbacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from callbacks.metrics.sets import read_image
from datamodules.files.decode import decode
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
