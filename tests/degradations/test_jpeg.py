"""JPEG: bit-equal to Pillow on every path."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from degradations.base import Canvas
from degradations.images import to_bytes
from degradations.stages import jpeg
from degradations.stages.jpeg import JPEG, SUBSAMPLINGS, encode_decode
from tests.make import as_tensor, photograph, uniform

SIZES = [(64, 64), (37, 53), (53, 37), (1, 1), (1, 5), (8, 2), (3, 3), (17, 4), (16, 5), (2, 64)]
PHOTOGRAPHS = [photograph(*size, name="coffee") for size in SIZES]


def noise(height, width):
    draws = np.random.default_rng(height * 100 + width)
    return draws.integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_pillow(pixels, subsampling, **settings):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", subsampling=subsampling, **settings)
    return np.array(Image.open(file))


def by_codec(pixels, quality, subsampling, smooth_chroma=True):
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return encode_decode(bgr, quality, subsampling, smooth_chroma)


def parameters(quality, subsampling):
    """What a stage draws for a batch: the quality and the name of the subsampling of each image."""
    numbers = [SUBSAMPLINGS.index(name) for name in subsampling]
    return {"quality": torch.tensor(quality), "subsampling": torch.tensor(numbers)}


def on_one_canvas(stage, images, quality, subsampling):
    """Each image after the stage, (H, W, 3) uint8, from a canvas with noise around them."""
    pixels = uniform(len(images), 3, 96, 128)
    for place, image in zip(pixels, images, strict=True):
        height, width, _ = image.shape
        place[:, :height, :width] = as_tensor(image)[0]
    sizes = torch.tensor([image.shape[:2] for image in images])
    canvas = Canvas(pixels, sizes, (96, 128))

    result = stage.on_canvas(canvas, parameters(quality, subsampling)).pixels

    return [to_bytes(x[:, :h, :w]) for x, (h, w) in zip(result, sizes, strict=True)]


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [1, 49, 50, 75, 96, 100])
def test_the_codec_of_opencv_gives_the_bits_of_pillow(quality, subsampling):
    for pixels in [*PHOTOGRAPHS, noise(200, 180), noise(17, 4)]:
        decoded = by_codec(pixels, quality, subsampling)

        expected = by_pillow(pixels, subsampling, quality=quality)
        np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("subsampling", [["4:4:4"], ["4:2:2"], ["4:2:0"], SUBSAMPLINGS])
def test_the_codec_of_torch_gives_the_bits_of_pillow(subsampling):
    """Images of many sizes, qualities and, in the last case, subsamplings on one canvas."""
    stage = JPEG(subsampling=dict.fromkeys(subsampling, 1 / len(subsampling)))
    images = [noise(*size) for size in SIZES[:4]] + PHOTOGRAPHS[4:]
    names = [subsampling[n % len(subsampling)] for n in range(len(images))]
    for first in range(1, 11):
        quality = list(range(first, 101, 10))  # 1, 11 ... 91; 2, 12 ... 92; and so on to 100

        decoded = on_one_canvas(stage, images, quality, names)

        for n, image in enumerate(images):
            expected = by_pillow(image, names[n], quality=quality[n])
            np.testing.assert_array_equal(decoded[n], expected)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_without_smooth_chroma_both_codecs_give_the_same_bits(subsampling):
    """Chroma is then repeated, not interpolated, as in Real-ESRGAN's code; Pillow cannot do it."""
    stage = JPEG(smooth_chroma=False, subsampling=dict.fromkeys(SUBSAMPLINGS, 1 / 3))
    count = len(PHOTOGRAPHS)

    decoded = on_one_canvas(stage, PHOTOGRAPHS, [75] * count, [subsampling] * count)

    for image, on_canvas in zip(PHOTOGRAPHS, decoded, strict=True):
        expected = by_codec(image, 75, subsampling, smooth_chroma=False)
        np.testing.assert_array_equal(on_canvas, expected)


def test_transposed_tables_give_nearly_a_file_with_transposed_tables():
    """As of Real-ESRGAN's code. We code the transposed image, which rounds in another order.

    So results differ by up to 0.25 levels in the mean; those of the usual tables by more than 0.8.
    """
    image = photograph(96, 128)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=50)
    standard = Image.open(file).quantization
    tables = [np.reshape(standard[n], (8, 8)).T.ravel().tolist() for n in (0, 1)]
    stage = JPEG(transposed_tables=True)

    [alone] = stage(as_tensor(image), parameters([50], ["4:2:0"]))
    [on_canvas] = on_one_canvas(stage, [image], [50], ["4:2:0"])

    transposed = by_pillow(image, "4:2:0", qtables=tables).astype(float)
    usual = by_pillow(image, "4:2:0", quality=50).astype(float)
    np.testing.assert_array_equal(to_bytes(alone), on_canvas)
    assert np.abs(on_canvas - transposed).mean() < 0.25
    assert np.abs(usual - transposed).mean() > 0.8


def test_floats_are_clamped_and_rounded_to_8_bits_before_the_codec():
    image = as_tensor(photograph(48, 56)) * 1.3 - 0.15 + 0.3 / 255  # beyond [0, 1], off levels

    [compressed] = JPEG()(image, parameters([70], ["4:2:0"]))

    levels = np.rint(255 * image[0].clamp(0, 1).permute(1, 2, 0).numpy())
    expected = by_pillow(levels.astype(np.uint8), "4:2:0", quality=70)
    np.testing.assert_array_equal(to_bytes(compressed), expected)


def test_the_compiled_transform_has_the_same_bits(monkeypatch):
    """Compiled, it computes in 32-bit integers instead of float64; torch's flag alone selects them.

    Noise and blocks of black and white have the largest coefficients.
    """
    generator = torch.Generator().manual_seed(0)
    qualities = torch.arange(1, 101)
    noise = torch.randint(256, (len(qualities), 30, 8, 8), generator=generator)
    black_or_white = (noise > 127) * 255
    blocks = torch.cat([noise, black_or_white], 1).float() - 128
    steps = jpeg._quantisation_steps(qualities)[:, :1]  # of luma
    expected = jpeg._jpeg_round_trip(blocks, steps)

    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)

    assert torch.equal(jpeg._jpeg_round_trip(blocks, steps), expected)
