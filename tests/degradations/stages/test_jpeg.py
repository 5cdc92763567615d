"""JPEG: bit-equal to Pillow on every path; draws and gradients."""

from __future__ import annotations

import functools
import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from degradations.base import Canvas, quantize_8bit
from degradations.draws import Draws, to_device
from degradations.images import to_bytes
from degradations.stages import jpeg
from degradations.stages.jpeg import JPEG, SUBSAMPLINGS, encode_decode

CPU = torch.device("cpu")
SIZES = [(64, 64), (37, 53), (53, 37), (1, 1), (1, 5), (8, 2), (3, 3), (17, 4), (16, 5), (2, 64)]
ALL = {"4:4:4": 0.3, "4:2:2": 0.3, "4:2:0": 0.4}


@functools.cache
def photographs():
    return {"astronaut": data.astronaut(), "coffee": data.coffee(), "chelsea": data.chelsea()}


def crop(h, w, number=0):
    photograph = list(photographs().values())[number % 3]
    return photograph[40 + 3 * number :][:h, 60 + 5 * number :][:, :w].copy()


def noise(h, w):
    return np.random.default_rng(h * 100 + w).integers(0, 256, (h, w, 3), dtype=np.uint8)


def by_pillow(pixels, quality, subsampling):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.array(Image.open(file))


def as_tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0) / 255


def as_params(quality, subsampling):
    numbers = {"quality": quality, "subsampling": [SUBSAMPLINGS.index(s) for s in subsampling]}
    return {name: torch.tensor(value) for name, value in numbers.items()}


def on_one_canvas(stage, images, quality, subsampling):
    """Return each image after the stage, (h, w, 3) uint8, from a canvas with noise around them."""
    extent = tuple(max(p.shape[axis] for p in images) for axis in (0, 1))
    pixels = torch.rand(len(images), 3, *extent, generator=torch.Generator().manual_seed(0))
    for canvas, image in zip(pixels, images, strict=True):
        canvas[:, : image.shape[0], : image.shape[1]] = as_tensor(image)[0]
    sizes = torch.tensor([p.shape[:2] for p in images])
    done = stage.on_canvas(Canvas(pixels, sizes, extent), as_params(quality, subsampling))
    return [to_bytes(y[:, :h, :w]) for y, (h, w) in zip(done.pixels, sizes.tolist(), strict=True)]


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95, 96, 100])
def test_the_real_codec_gives_the_bits_of_pillow(quality, subsampling):
    for number, (h, w) in enumerate([(200, 180), *SIZES]):
        for pixels in (crop(h, w, number), noise(h, w)):
            got = encode_decode(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality, subsampling)
            np.testing.assert_array_equal(got, by_pillow(pixels, quality, subsampling))


@pytest.mark.parametrize(
    ("subsampling", "step"),
    [*(({s: 1.0}, 33) for s in SUBSAMPLINGS), (ALL, 9)],
    ids=str,
)
def test_the_torch_codec_gives_the_bits_of_pillow(subsampling, step):
    """Images of many sizes, qualities and, in the last cases, subsamplings on one canvas."""
    stage = JPEG(subsampling=subsampling)
    names = list(subsampling)
    for start in range(1, 101, step):
        images = [crop(h, w, n) if n % 3 else noise(h, w) for n, (h, w) in enumerate(SIZES)]
        quality = [(start + 10 * n - 1) % 100 + 1 for n in range(len(SIZES))]
        subsamplings = [names[(n + start) % len(names)] for n in range(len(SIZES))]
        got = on_one_canvas(stage, images, quality, subsamplings)
        for image, q, s, y in zip(images, quality, subsamplings, got, strict=True):
            np.testing.assert_array_equal(y, by_pillow(image, q, s), err_msg=f"{q} {s}")


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_chroma_that_is_repeated_has_equal_bits_on_both_paths(subsampling):
    stage = JPEG(smooth_chroma=False, subsampling=ALL)
    images = [crop(h, w, n) for n, (h, w) in enumerate(SIZES)]
    quality, names = [75] * len(SIZES), [subsampling] * len(SIZES)
    for image, found in zip(images, on_one_canvas(stage, images, quality, names), strict=True):
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        np.testing.assert_array_equal(found, encode_decode(bgr, 75, subsampling, False))


def test_transposed_tables_are_those_of_a_file_with_transposed_tables():
    """Equal but for rounding: of the transform's two passes, and of halved chroma."""
    image = crop(96, 128)
    standard = Image.open(io.BytesIO(as_file(image, quality=50))).quantization
    tables = [np.reshape(standard[n], (8, 8)).T.flatten().tolist() for n in (0, 1)]
    expected = np.array(Image.open(io.BytesIO(as_file(image, qtables=tables))))
    usual = by_pillow(image, 50, "4:2:0")

    stage = JPEG(transposed_tables=True)
    on_cpu = stage(as_tensor(image), as_params([50], ["4:2:0"]))[0]
    on_canvas = on_one_canvas(stage, [image], [50], ["4:2:0"])[0]

    np.testing.assert_array_equal(to_bytes(on_cpu), on_canvas)
    assert np.abs(on_canvas.astype(float) - expected).mean() < 0.25
    assert np.abs(usual.astype(float) - expected).mean() > 0.8


def as_file(image, **settings):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", subsampling="4:2:0", **settings)
    return file.getvalue()


def test_forward_is_the_codec_on_8_bits():
    x = torch.cat([as_tensor(crop(48, 56, n)) for n in range(3)]) * 1.3 - 0.15
    x = x + 0.3 / 255
    names = ("4:2:0", "4:4:4", "4:2:2")
    y = JPEG()(x, as_params([12, 70, 95], names))
    for out, image, quality, name in zip(y, quantize_8bit(x), (12, 70, 95), names, strict=True):
        pixels = (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        expected = as_tensor(by_pillow(pixels, quality, name))
        assert torch.equal(out, expected[0])


def test_rounding_is_half_to_even_like_everywhere():
    # Multiples of 1/510 that times 255 are exact halves in float32.
    x = torch.arange(512).float() / 510
    x = x[(x * 255) % 1 == 0.5]
    assert len(x) > 100
    got = to_bytes(x.expand(3, 1, -1))[0, :, 0]
    np.testing.assert_array_equal(got, (quantize_8bit(x) * 255).round().numpy())


def test_the_compiled_transform_has_the_same_bits(monkeypatch):
    """In 32-bit integers, as in float64; noise and blocks of black and white are the extremes."""
    blocks = torch.randint(256, (100, 60, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    blocks[:, 30:] = (blocks[:, 30:] > 127) * 255.0
    blocks -= 128
    steps = jpeg._quantisation_steps(torch.arange(1, 101))[:, :1]
    expected = jpeg._quantise_blocks(blocks, steps)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(jpeg._quantise_blocks(blocks, steps), expected)


@pytest.mark.slow
def test_compiles_as_one_graph():
    x = torch.rand(2, 3, 24, 40)
    stage = JPEG(subsampling=ALL)
    params = to_device(stage.draw(Draws(torch.arange(2)), x.shape), 2, CPU)

    def run(x, params):
        return stage.on_canvas(Canvas.of(x), params).pixels

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True, dynamic=False)
    assert torch.equal(compiled(x, params), run(x, params))
