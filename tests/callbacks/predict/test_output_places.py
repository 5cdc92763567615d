"""Places of outputs: inputs and other files survive, for any settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from callbacks.predict.writer import Writer
from datamodules.base import SRDataModule
from datamodules.shards.shards import Shards
from datamodules.source import Source
from files.images.decode import read_image
from lightning_modules.controls.simple import Bicubic
from tests.callbacks.tiny import trainer
from tests.datamodules.image_files import write_tar
from tests.datamodules.memory import Memory
from tests.datamodules.server import serving


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4)).save(path)
    return path


def enlarge(images: Path | Source, out: Path, **settings: Any) -> None:
    predict = images if isinstance(images, Source) else str(images)
    data = SRDataModule(2.0, predict=predict, workers=0)
    writer = Writer(folder=str(out), **settings)
    trainer(out.parent, writer).predict(Bicubic(2), data, return_predictions=False)


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def folder_of_others(place: Path) -> None:
    save(place / "mine.png")


@pytest.mark.parametrize(
    "make",
    [
        save,
        folder_of_others,
        lambda place: place.symlink_to("/nowhere/a.png"),
    ],
)
def test_something_else_in_the_place_of_an_output_stays(tmp_path, make):
    save(tmp_path / "in/a.jpg")
    (tmp_path / "out").mkdir()
    make(tmp_path / "out/a.png")
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"out/a\.png exists, and no line of predictions\.jsonl"):
        enlarge(tmp_path / "in", tmp_path / "out")
    assert files(tmp_path) == before
    assert os.path.lexists(tmp_path / "out/a.png")


@pytest.mark.parametrize("out", ["out", "link", "other/../out"])
def test_an_output_that_is_an_input_now_by_any_path(tmp_path, out):
    enlarge(save(tmp_path / "in/a.png"), tmp_path / "out")
    (tmp_path / "link").symlink_to("out")
    (tmp_path / "other").mkdir()
    before = files(tmp_path / "out")
    with pytest.raises(ValueError, match=r"a\.png would overwrite an input"):
        enlarge(tmp_path / "out/a.png", tmp_path / out)
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("out", ["in", ".", "in/sub"])
def test_outputs_beside_below_and_above_inputs(tmp_path, out):
    save(tmp_path / "in/a.jpg")
    save(tmp_path / "in/sub/b.jpg")
    before = files(tmp_path / "in")
    enlarge(tmp_path / "in", tmp_path / out, suffix="_x2")
    assert before.items() <= files(tmp_path / "in").items()
    assert (tmp_path / out / "a_x2.png").is_file()


def test_an_image_of_another_tar_is_another_image(tmp_path):
    def made(urls: Path | str) -> float:
        folders = {"index_cache": f"{tmp_path}/indices", "cache_dir": f"{tmp_path}/cache"}
        enlarge(Shards(str(urls), **folders), tmp_path / "out")  # type: ignore[arg-type]
        with Image.open(tmp_path / "out/k.png") as image:
            return float(np.asarray(image).mean())

    for grey in (10, 20, 30):
        Image.new("L", (5, 4), grey).save(tmp_path / "k.png")
        write_tar(tmp_path / f"{grey}.tar", [("k.png", (tmp_path / "k.png").read_bytes())])
    assert made(tmp_path / "10.tar") == 10
    assert made(tmp_path / "20.tar") == 20
    (tmp_path / "30.tar").replace(tmp_path / "20.tar")
    assert made(tmp_path / "20.tar") == 30
    with serving(tmp_path) as server:
        assert made(f"{server.url}/10.tar") == 10
        assert made(f"{server.url}/20.tar") == 30


@pytest.mark.parametrize("key", ["root", "file", "gain"])
def test_of_a_source_without_files_its_options_count(tmp_path, key):
    """Of a Source of one's own, which gives images of 16 bits, and no files."""

    def enlarged(value: str, grey: int) -> int:
        made = Memory({"k": {"hr": np.full((4, 5, 3), grey, np.uint16)}})
        writer = Writer(folder=str(tmp_path / "out"))
        source = {"class_path": "my.Archive", "init_args": {key: value}}
        writer.config = {"data": {"init_args": {"predict": source}}}
        data = SRDataModule(2.0, predict=made, workers=0)
        trainer(tmp_path, writer).predict(Bicubic(2), data, return_predictions=False)
        return int(read_image(tmp_path / "out/k.png").rgb[0, 0, 0])

    assert [enlarged("a", 1), enlarged("a", 2), enlarged("b", 3)] == [1, 1, 3]
