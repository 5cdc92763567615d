"""JPEG: bit-equal to Pillow on every path."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from degradations.base import Canvas, quantize_8bit
from degradations.draws import Draws, to_device
from degradations.images import to_bytes
from degradations.stages import jpeg
from degradations.stages.jpeg import JPEG, SUBSAMPLINGS, encode_decode
from tests.make import as_tensor, photograph

SIZES = [(64, 64), (37, 53), (53, 37), (1, 1), (1, 5), (8, 2), (3, 3), (17, 4), (16, 5), (2, 64)]
PHOTOGRAPHS = [photograph(*size, name="coffee") for size in SIZES]
ALL = {"4:4:4": 0.3, "4:2:2": 0.3, "4:2:0": 0.4}


def noise(height, width):
    draws = np.random.default_rng(height * 100 + width)
    return draws.integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_pillow(pixels, subsampling, **settings):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", subsampling=subsampling, **settings)
    return np.array(Image.open(file))


def as_params(quality, subsampling):
    numbers = [SUBSAMPLINGS.index(name) for name in subsampling]
    return {"quality": torch.tensor(quality), "subsampling": torch.tensor(numbers)}


def on_one_canvas(stage, images, quality, subsampling):
    """Each image after the stage, (H, W, 3) uint8, from a canvas with noise around them."""
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    pixels = torch.rand(len(images), 3, height, width)
    for place, image in zip(pixels, images, strict=True):
        place[:, : image.shape[0], : image.shape[1]] = as_tensor(image)[0]
    sizes = torch.tensor([image.shape[:2] for image in images])
    canvas = Canvas(pixels, sizes, (height, width))

    done = stage.on_canvas(canvas, as_params(quality, subsampling)).pixels

    return [to_bytes(done[n, :, :h, :w]) for n, (h, w) in enumerate(sizes.tolist())]


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95, 96, 100])
def test_the_codec_of_opencv_gives_the_bits_of_pillow(quality, subsampling):
    for pixels in [*PHOTOGRAPHS, noise(200, 180), noise(17, 4)]:
        bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        expected = by_pillow(pixels, subsampling, quality=quality)
        np.testing.assert_array_equal(encode_decode(bgr, quality, subsampling), expected)


@pytest.mark.parametrize("subsampling", [{"4:4:4": 1.0}, {"4:2:2": 1.0}, {"4:2:0": 1.0}, ALL])
def test_the_codec_of_torch_gives_the_bits_of_pillow(subsampling):
    """Images of many sizes, qualities and, in the last case, subsamplings on one canvas."""
    stage = JPEG(subsampling=subsampling)
    images = [noise(*size) for size in SIZES[:4]] + PHOTOGRAPHS[4:]
    for first in range(1, 101, 9):
        quality = [(first + 10 * n - 1) % 100 + 1 for n in range(10)]
        names = [list(subsampling)[(n + first) % len(subsampling)] for n in range(10)]

        decoded = on_one_canvas(stage, images, quality, names)

        for n, image in enumerate(images):
            expected = by_pillow(image, names[n], quality=quality[n])
            np.testing.assert_array_equal(decoded[n], expected)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_chroma_that_is_repeated_has_equal_bits_on_both_paths(subsampling):
    stage = JPEG(smooth_chroma=False, subsampling=ALL)

    decoded = on_one_canvas(stage, PHOTOGRAPHS, [75] * 10, [subsampling] * 10)

    for image, on_canvas in zip(PHOTOGRAPHS, decoded, strict=True):
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        np.testing.assert_array_equal(on_canvas, encode_decode(bgr, 75, subsampling, False))


def test_transposed_tables_are_those_of_a_file_with_transposed_tables():
    """Equal but for rounding: of the transform's two passes, and of halved chroma."""
    image = photograph(96, 128)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=50)
    standard = Image.open(file).quantization
    tables = [np.reshape(standard[n], (8, 8)).T.flatten().tolist() for n in (0, 1)]
    stage = JPEG(transposed_tables=True)

    one = stage(as_tensor(image), as_params([50], ["4:2:0"]))[0]
    [on_canvas] = on_one_canvas(stage, [image], [50], ["4:2:0"])

    transposed = by_pillow(image, "4:2:0", qtables=tables).astype(float)
    usual = by_pillow(image, "4:2:0", quality=50).astype(float)
    np.testing.assert_array_equal(to_bytes(one), on_canvas)
    assert np.abs(on_canvas - transposed).mean() < 0.25
    assert np.abs(usual - transposed).mean() > 0.8


def test_floats_are_rounded_to_8_bits_before_the_codec():
    images = [photograph(48, 56, name=name) for name in ("astronaut", "coffee", "chelsea")]
    x = torch.cat([as_tensor(image) for image in images]) * 1.3 - 0.15 + 0.3 / 255
    quality = [12, 70, 95]
    names = ["4:2:0", "4:4:4", "4:2:2"]

    y = JPEG()(x, as_params(quality, names))

    for n, image in enumerate(quantize_8bit(x)):
        expected = by_pillow(to_bytes(image), names[n], quality=quality[n])
        np.testing.assert_array_equal(to_bytes(y[n]), expected)


def test_rounding_is_half_to_even_like_everywhere():
    # Multiples of 1/510 that times 255 are exact halves in float32.
    x = torch.arange(512).float() / 510
    x = x[(x * 255) % 1 == 0.5]

    rounded = to_bytes(x.expand(3, 1, -1))[0, :, 0]

    assert len(x) > 100
    np.testing.assert_array_equal(rounded, (quantize_8bit(x) * 255).round().numpy())


def test_the_compiled_transform_has_the_same_bits(monkeypatch):
    """In 32-bit integers, as in float64; noise and blocks of black and white are the extremes."""
    draws = torch.Generator().manual_seed(0)
    blocks = torch.randint(256, (100, 60, 8, 8), generator=draws).float()
    blocks[:, 30:] = (blocks[:, 30:] > 127) * 255.0
    blocks -= 128
    steps = jpeg._quantisation_steps(torch.arange(1, 101))[:, :1]
    expected = jpeg._jpeg_round_trip(blocks, steps)

    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)

    assert torch.equal(jpeg._jpeg_round_trip(blocks, steps), expected)


@pytest.mark.slow
def test_compiles_as_one_graph():
    x = torch.rand(2, 3, 24, 40)
    stage = JPEG(subsampling=ALL)
    params = to_device(stage.draw(Draws(torch.arange(2)), x.shape), 2, torch.device("cpu"))

    def run(x, params):
        return stage.on_canvas(Canvas.of(x), params).pixels

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True, dynamic=False)

    assert torch.equal(compiled(x, params), run(x, params))
