"""Large images: written strip by strip with little memory, and shown reduced."""

from __future__ import annotations

import shutil
import time
import weakref
from collections import namedtuple
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import Tensor, nn

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
from tests.datamodules.profiles import rgb_profile


class Nearest(nn.Module):
    """Enlarges by 4, exactly."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = 4

    def forward(self, lr: Tensor) -> Tensor:
        return lr.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


def predict(folder: Path, tile: int, scale: float = 4, **settings: Any) -> Writer:
    """Enlarge the images of a folder, in tiles of a side."""
    writer = Writer(str(folder / str(tile)), **settings)
    model = Regression(4, network=Nearest)
    model.set_tiling(Tiling(size=tile))
    data = SRDataModule(scale, predict=str(folder / "in"), workers=0)
    trainer(folder, writer).predict(model, data, return_predictions=False)
    return writer


def photograph(side: int, channels: int = 3, dtype: str = "uint8") -> Any:
    random = np.random.default_rng(0)
    coarse = random.integers(0, np.iinfo(dtype).max, (6, 7, channels), dtype)
    large = cv2.resize(coarse, (side - 9, side), interpolation=cv2.INTER_LINEAR)
    return large.reshape(side, side - 9, channels)


KINDS: list[tuple[str, str, int, dict[str, Any], float]] = [
    ("png", "uint8", 3, {}, 4),
    ("png", "uint8", 4, {}, 4),
    ("png", "uint16", 3, {}, 4),
    ("png", "uint8", 1, {"strength": 0.3}, 4),
    ("png", "uint8", 3, {}, 2.5),
    ("png", "uint8", 4, {"strength": 0.3}, 5.5),
    ("tiff", "uint8", 4, {}, 4),
    ("tiff", "uint16", 4, {}, 4),
    ("jpg", "uint8", 3, {"quality": 90}, 4),
    ("webp", "uint8", 3, {}, 4),
]


@pytest.mark.parametrize(("format", "dtype", "channels", "settings", "scale"), KINDS)
def test_pixels_of_tiles_are_those_of_the_whole_image(
    tmp_path, format, dtype, channels, settings, scale
):
    """But for bicubic's last bit, where a value lies between two levels."""
    pixels = photograph(60, channels, dtype)
    (tmp_path / "in").mkdir()
    if dtype == "uint16" and channels == 4:
        tifffile.imwrite(tmp_path / "in/a.tif", pixels, photometric="rgb", extrasamples=[2])
    else:
        order = [[0], [0, 1], [2, 1, 0], [2, 1, 0, 3]][channels - 1]
        cv2.imwrite(str(tmp_path / "in/a.png"), pixels[..., order])

    for tile in (64, 24):
        predict(tmp_path, tile, scale, format=format, **settings)

    whole = read_image(tmp_path / f"64/a.{format}").array().astype(int)
    tiled = read_image(tmp_path / f"24/a.{format}").array().astype(int)
    (line,) = stored(tmp_path / "24")
    assert line["tiles"] > 4
    difference = np.abs(tiled - whole)
    by_bicubic = channels == 4 or settings.get("strength") or scale != 4
    assert difference.max() <= (1 if by_bicubic else 0)
    assert difference.mean() < 0.01


def test_memory_holds_no_output(tmp_path):
    """Of 27 megapixels, which take 80 MB in 8 bits, and 325 as floats."""
    (tmp_path / "in").mkdir()
    Image.fromarray(photograph(1300)).save(tmp_path / "in/a.png")
    taken = peak_mib(lambda: predict(tmp_path, 128), torch.device("cpu"))
    if taken is None:
        pytest.skip("this system does not say what memory a process takes")
    assert taken < 130
    with Image.open(tmp_path / "128/a.png") as image:
        assert image.size == (5164, 5200)


Usage = namedtuple("Usage", ["free"])


def test_a_large_image_waits_for_the_room_of_another_one(tmp_path, monkeypatch):
    """On a disk with room for the levels and the file of one image: 2 x 168 kB."""
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(photograph(64)).save(tmp_path / f"in/{name}.png")
    maps: weakref.WeakSet[Any] = weakref.WeakSet()
    make = arrays.empty

    def empty(*args: Any) -> Any:
        pixels = make(*args)
        maps.add(pixels.base)
        return pixels

    def usage(_: Any) -> Usage:
        return Usage(340_000 - sum(map(len, maps)))

    def write_slowly(*args: Any) -> list[str]:
        time.sleep(0.3)
        return write_image(*args)

    monkeypatch.setattr(arrays, "LARGE", 1000)
    monkeypatch.setattr(arrays, "empty", empty)
    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr("callbacks.predict.writer.write_image", write_slowly)

    writer = predict(tmp_path, 128)

    assert writer.written == 3
    assert writer.failed == 0


@pytest.mark.parametrize("lacks", ["disk", "room for the file", "memory"])
def test_what_is_too_large_ends_before_it_starts(tmp_path, monkeypatch, lacks):
    (tmp_path / "in").mkdir()
    Image.fromarray(photograph(60)).save(tmp_path / "in/a.png")
    monkeypatch.setattr(Nearest, "forward", lambda self, lr: pytest.fail("it has started"))
    if lacks == "disk":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100))
    elif lacks == "room for the file":  # beside the levels, of 147 kB
        monkeypatch.setattr(arrays, "LARGE", 1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(200_000))
    else:
        monkeypatch.setattr("files.memory.free_memory", lambda _: 10_000)
    with pytest.raises(ValueError, match="none of the 1 inputs could be enlarged"):
        predict(tmp_path, 64, format="webp")
    (line,) = stored(tmp_path / "64")
    assert line["error"].startswith("an output of 204 x 240 pixels needs 0.0 GB")
    assert line["error"].endswith("0.0 are free")


# ----------------------------------------------------------------------- What pages show of images


DRAWS = np.random.default_rng(0)


@pytest.mark.parametrize("type", [np.uint8, np.uint16])
def test_a_reduction_is_the_mean_of_squares_however_rows_come(type, monkeypatch):
    monkeypatch.setattr(screen, "SIDE", 20)
    pixels = DRAWS.integers(0, 256, (31, 47, 3)).astype(type)
    reduction = screen.Reduction()

    for start, stop in ((0, 1), (1, 12), (12, 31)):
        reduction.add(pixels[start:stop], (31, 47))

    squares = pixels[:30, :45].reshape(10, 3, 15, 3, 3)
    assert reduction.height == 31
    assert np.array_equal(reduction.pixels(), squares.mean((1, 3)).round())


def test_a_large_image_is_shown_reduced_with_its_profile(tmp_path, monkeypatch):
    monkeypatch.setattr(screen, "SIDE", 20)
    source = tmp_path / "photograph.png"
    rgb = DRAWS.integers(0, 256, (30, 60, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(source, icc_profile=rgb_profile())

    shown = screen.reduced(read_image(source))

    assert shown.size == (20, 10)
    assert shown.info["icc_profile"] == rgb_profile()
