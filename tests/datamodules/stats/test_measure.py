"""What is measured of an image: known values on made images."""

from __future__ import annotations

import io
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from datamodules.files.decode import REASONS
from datamodules.sources.photos import photo_path
from datamodules.stats import measure
from datamodules.stats.measure import NAMES, ROW, measured


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def row_of(pixels, kind="PNG", **options):
    row, message = measured(encoded(pixels, kind, **options), "a")
    assert message == ""
    return row


@pytest.fixture(scope="module")
def smooth():
    """A picture with edges and no noise."""
    y, x = np.mgrid[:300, :400]
    picture = 128 + 60 * np.sin(x / 40) * np.cos(y / 55) + 30 * (np.hypot(x - 200, y - 150) < 80)
    return cv2.GaussianBlur(picture, (0, 0), 2)[..., None].repeat(3, 2)


def noisy(picture, sigma, channels, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, (*picture.shape[:2], channels))
    return np.clip(np.round(picture + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])  # grey noise, and noise of each channel
@pytest.mark.parametrize("sigma", [2.0, 6.0, 20.0])
def test_noise_is_within_a_tenth(smooth, sigma, channels):
    row = row_of(noisy(smooth, sigma, channels))
    assert row["noise"] == pytest.approx(sigma, rel=0.1)
    assert row["grey"] == (channels == 1)


def test_noise_of_a_part_of_a_large_image_is_that_of_the_whole(smooth, monkeypatch):
    image = noisy(smooth, 8.0, 3)
    whole = float(row_of(image)["noise"])
    monkeypatch.setattr(measure, "ENOUGH", image.shape[0] * image.shape[1] // 3)
    part = float(row_of(image)["noise"])
    assert part != whole
    assert part == pytest.approx(whole, rel=0.05)


def test_noise_of_16_bits_has_the_same_unit(smooth):
    image = noisy(smooth, 6.0, 1)
    deep = image.astype(np.uint16) * 257
    _, data = cv2.imencode(".png", deep)
    row, _ = measured(data.tobytes(), "a")
    assert row["depth"] == 16
    assert row["noise"] == pytest.approx(float(row_of(image)["noise"]), rel=1e-4)
    assert row["blur"] == pytest.approx(float(row_of(image)["blur"]), rel=0.02)


def test_a_constant_border_hides_no_noise(smooth):
    image = np.pad(noisy(smooth, 6.0, 3), ((400, 400), (0, 0), (0, 0)))
    assert row_of(image)["noise"] == pytest.approx(6.0, rel=0.1)


def test_blur_falls_with_the_width_of_the_kernel():
    photo = np.asarray(Image.open(photo_path("astronaut")).convert("RGB"))[:200, :200]
    blurred = [photo, *(cv2.GaussianBlur(photo, (0, 0), sigma) for sigma in (0.5, 1, 2, 4))]
    found = [float(row_of(image, "BMP")["blur"]) for image in blurred]
    assert found == sorted(found, reverse=True)
    assert found[1] > 20 * found[-1]


def test_blur_is_the_variance_of_the_laplacian():
    grey = np.random.default_rng(1).integers(0, 256, (20, 30), dtype=np.uint8)
    wide = grey.astype(np.float64)
    inner = wide[1:-1, 1:-1]
    laplacian = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:] - 4 * inner
    assert row_of(grey)["blur"] == pytest.approx(laplacian.var(), rel=1e-5)


def test_equal_pixels_have_one_digest_in_any_format():
    pixels = np.random.default_rng(2).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    rows = [row_of(pixels), row_of(pixels, "WEBP", lossless=True), row_of(pixels, "BMP")]
    assert len({tuple(row["digest"].tolist()) for row in rows}) == 1
    assert [NAMES[row["format"]] for row in rows] == ["PNG", "WEBP", "BMP"]
    assert (rows[0]["width"], rows[0]["height"]) == (30, 20)
    for other in (pixels.reshape(30, 20, 3), np.where(pixels == 7, 8, pixels)):
        assert row_of(other)["digest"].tolist() != rows[0]["digest"].tolist()


def test_formats_are_known_by_their_first_bytes():
    pixels = np.zeros((16, 16, 3), np.uint8)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"):
        assert measure.format_of(encoded(pixels, kind)) == kind
    assert measure.format_of(b"%PDF-1.5") == "unknown"


def test_grey_images_and_flat_ones():
    grey = np.random.default_rng(3).integers(0, 256, (32, 32), dtype=np.uint8)
    assert row_of(grey)["grey"]
    assert row_of(grey, "JPEG", quality=50)["grey"]
    dot = grey[..., None].repeat(3, 2)
    dot[5, 7] = 200, 10, 10  # not among the few pixels that are looked at first
    assert not row_of(dot)["grey"]
    flat = row_of(np.full((40, 40, 3), 200, np.uint8))
    assert flat["flat"]
    assert flat["noise"] == flat["blur"] == 0
    assert not row_of(grey)["flat"]


def test_tiny_images_have_sizes_and_no_numbers():
    row = row_of(np.zeros((2, 1, 3), np.uint8))
    assert (row["height"], row["width"]) == (2, 1)
    assert np.isnan(row["blur"])
    assert np.isnan(row["noise"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: b"", "empty"),
        (lambda data: b"hello" * 20, "not an image"),
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: data[:60] + b"\0" * 40 + data[100:], "damaged"),
    ],
)
def test_reasons(change, reason):
    pixels = np.random.default_rng(4).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    row, message = measured(change(encoded(pixels)), "x.png")
    assert REASONS[row["reason"] - 1] == reason
    assert message.startswith("x.png: ")


def test_a_row_is_small_and_no_torch_is_needed():
    assert ROW.itemsize <= 64
    assert "torch" not in vars(sys.modules["datamodules.stats.measure"])
