"""Large images: written strip by strip with little memory, and shown reduced."""

from __future__ import annotations

import re
import shutil
import time
import weakref
from collections import namedtuple

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

from benchmarks.memory import peak_mib
from callbacks.predict import screen
from callbacks.predict.files import write_image
from callbacks.predict.writer import Writer
from datamodules import SRDataModule
from files.images import arrays
from files.images.decode import read_image
from lightning_modules import Regression
from lightning_modules.sampling.tiling import Tiling
from tests.callbacks.predict.test_predictions import stored
from tests.callbacks.tiny import trainer
from tests.datamodules.memory import random_image
from tests.datamodules.profiles import rgb_profile

Usage = namedtuple("Usage", ["free"])


class Nearest(nn.Module):
    """Repeats each pixel 4 times in both directions."""

    def __init__(self, scale):
        super().__init__()
        self.scale = 4

    def forward(self, lr):
        return lr.repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.fixture
def inputs(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def predict(folder, tile, scale=4, **settings):
    """Enlarge the images of a folder, in tiles of a side."""
    writer = Writer(str(folder / str(tile)), **settings)
    model = Regression(4, network=Nearest)
    model.set_tiling(Tiling(size=tile))
    data = SRDataModule(scale, predict=str(folder / "in"), workers=0)
    trainer(folder, writer).predict(model, data, return_predictions=False)
    return writer


def photograph(side, channels=3, dtype="uint8"):
    """Smooth levels (H, W, C): `side` rows, and 9 columns fewer."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, np.iinfo(dtype).max, (6, 7, channels), dtype)
    large = cv2.resize(coarse, (side - 9, side), interpolation=cv2.INTER_LINEAR)
    return large.reshape(side, side - 9, channels)


def save(path, pixels):
    if pixels.dtype == np.uint16 and pixels.shape[2] == 4:
        tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=[2])  # alpha
    elif pixels.shape[2] < 3:
        cv2.imwrite(str(path), pixels)
    else:
        order = [2, 1, 0, 3][: pixels.shape[2]]
        cv2.imwrite(str(path), pixels[..., order])


@pytest.mark.parametrize(
    ("format", "dtype", "channels", "settings", "scale", "within"),  # levels
    [
        pytest.param("png", "uint8", 3, {}, 4, 0, id="RGB"),
        pytest.param("png", "uint8", 4, {}, 4, 1, id="alpha"),
        pytest.param("png", "uint16", 3, {}, 4, 0, id="16 bits"),
        pytest.param("png", "uint8", 1, {"strength": 0.3}, 4, 1, id="grey, mixed with bicubic"),
        pytest.param("png", "uint8", 3, {}, 2.5, 1, id="less than the model's scale of 4"),
        pytest.param("png", "uint8", 4, {"strength": 0.3}, 5.5, 1, id="more, alpha and bicubic"),
        pytest.param("tiff", "uint16", 4, {}, 4, 1, id="16 bits and alpha in TIFF"),
        pytest.param("jpg", "uint8", 3, {"quality": 90}, 4, 0, id="JPEG"),
        pytest.param("webp", "uint8", 3, {}, 4, 0, id="WebP"),
    ],
)
def test_an_image_enlarged_in_tiles_has_the_pixels_of_one_enlarged_at_once(
    tmp_path, inputs, format, dtype, channels, settings, scale, within
):
    """But for one level where bicubic (alpha, strength, other scales) lies between two."""
    ending = "tif" if format == "tiff" else "png"
    save(inputs / f"a.{ending}", photograph(60, channels, dtype))

    predict(tmp_path, tile=64, scale=scale, format=format, **settings)
    predict(tmp_path, tile=24, scale=scale, format=format, **settings)

    [line] = stored(tmp_path / "24")
    at_once = read_image(tmp_path / f"64/a.{format}").array().astype(int)
    in_tiles = read_image(tmp_path / f"24/a.{format}").array().astype(int)
    difference = np.abs(in_tiles - at_once)
    assert line["tiles"] > 4
    assert difference.max() <= within
    assert difference.mean() < 0.01


def test_a_large_output_is_not_held_in_memory(tmp_path, inputs):
    """27 megapixels (5200 x 5164) take 77 MiB in 8 bits, and 307 MiB as float32."""
    Image.fromarray(photograph(1300)).save(inputs / "a.png")

    taken = peak_mib(lambda: predict(tmp_path, tile=128), torch.device("cpu"))

    if taken is None:
        pytest.skip("this system does not say what memory a process takes")
    assert taken < 130
    with Image.open(tmp_path / "128/a.png") as image:
        assert image.size == (4 * 1291, 4 * 1300)


def test_a_large_image_waits_until_another_one_has_left_the_disk(tmp_path, inputs, monkeypatch):
    """Levels of a large image lie in a file on the disk until its own file is written.

    There is room for one image's levels and file: 2 x 169 kB (256 x 220 pixels, 3 bytes).
    """
    for name in ("a", "b", "c"):
        Image.fromarray(photograph(64)).save(inputs / f"{name}.png")
    maps = weakref.WeakSet()  # files of levels that are in use
    make = arrays.empty

    def empty(*arguments):
        pixels = make(*arguments)
        maps.add(pixels.base)
        return pixels

    def usage(folder):
        return Usage(340_000 - sum(map(len, maps)))

    def write_slowly(*arguments):
        time.sleep(0.3)
        return write_image(*arguments)

    monkeypatch.setattr(arrays, "LARGE", 1000)  # bytes, from which on levels lie on the disk
    monkeypatch.setattr(arrays, "empty", empty)
    monkeypatch.setattr(shutil, "disk_usage", usage)
    # So that the next image is made before this one is written.
    monkeypatch.setattr("callbacks.predict.writer.write_image", write_slowly)

    writer = predict(tmp_path, tile=128)

    assert writer.written == 3
    assert writer.failed == 0


def fill_disk(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100))


def leave_room_for_levels_only(monkeypatch):
    """Levels of 240 x 204 pixels take 147 kB on the disk, and as much is wanted for the file."""
    monkeypatch.setattr(arrays, "LARGE", 1000)  # bytes, from which on levels lie on the disk
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(200_000))


def fill_memory(monkeypatch):
    """WebP, unlike other formats, is encoded as a whole in memory."""
    monkeypatch.setattr("files.memory.free_memory", lambda _: 10_000)


@pytest.mark.parametrize("fill", [fill_disk, leave_room_for_levels_only, fill_memory])
def test_an_output_without_room_on_disk_or_in_memory_is_refused_before_it_is_made(
    tmp_path, inputs, monkeypatch, fill
):
    Image.fromarray(photograph(60)).save(inputs / "a.png")
    monkeypatch.setattr(Nearest, "forward", lambda self, lr: pytest.fail("it has started"))
    fill(monkeypatch)

    with pytest.raises(ValueError, match="none of the 1 inputs could be enlarged"):
        predict(tmp_path, tile=64, format="webp")

    [line] = stored(tmp_path / "64")
    assert line["error"].startswith("an output of 204 x 240 pixels needs ")
    needed, free = re.search("needs (.*) bytes .* and (.*) are free", line["error"]).groups()
    assert int(needed.replace(",", "")) > int(free.replace(",", ""))


# ----------------------------------------------------------------------- What pages show of images


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_reduction_is_the_mean_of_squares_for_any_division_into_strips(monkeypatch, dtype):
    monkeypatch.setattr(screen, "SIDE", 20)  # pixels that a page shows at most
    pixels = random_image(31, 47).astype(dtype)
    reduction = screen.Reduction()

    for start, stop in ((0, 1), (1, 12), (12, 31)):
        reduction.add(pixels[start:stop], (31, 47))

    # 47 columns are more than SIDE, 20, unless 3 become one; an incomplete square is left out.
    squares = pixels[:30, :45].reshape(10, 3, 15, 3, 3)
    assert reduction.height == 31
    assert np.array_equal(reduction.pixels(), squares.mean((1, 3)).round())


def test_a_large_image_is_shown_reduced_with_its_profile(tmp_path, monkeypatch):
    monkeypatch.setattr(screen, "SIDE", 20)  # pixels that a page shows at most
    source = tmp_path / "photograph.png"
    Image.fromarray(random_image(30, 60)).save(source, icc_profile=rgb_profile())

    shown = screen.reduced(read_image(source))

    assert shown.size == (20, 10)
    assert shown.info["icc_profile"] == rgb_profile()
