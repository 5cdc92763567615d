"""Places of outputs: inputs and other files survive, of images and of clips."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from callbacks.predict.files import write_image
from callbacks.predict.predictions import NAME
from callbacks.predict.writer import Writer
from datamodules.base import SRDataModule
from datamodules.shards.shards import Shards
from datamodules.source import Source
from datamodules.sources.prompts import Seeds
from files.images.decode import read_image
from lightning_modules.controls.simple import Bicubic
from tests.callbacks.predict.test_predictions import stored
from tests.callbacks.tiny import Tiny, trainer
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


# ------------------------------------------------------------------------------------------ clips


class Clips(Tiny):
    """Frames with the frame's number as red, and the seed as green."""

    made = 0

    def predict_step(self, batch: Any, *indices: int) -> dict[str, Tensor]:
        self.made += 1
        clip = torch.zeros(1, batch["frames"], 3, *batch["size"])
        clip[0, :, 0] = torch.arange(batch["frames"]).view(-1, 1, 1) / 10
        clip[0, :, 1] = int(batch["seed"]) % 200 / 255
        return {"sr": clip}


def predict_clips(root: Path, count: int = 2, size: Any = (6, 9), **settings: Any) -> Clips:
    data = SRDataModule(1.0, predict=Seeds(count, size, frames=3), workers=0)
    model = Clips()
    writer = Writer(folder=str(root / "out"), **settings)
    trainer(root, writer).predict(model, data, return_predictions=False)
    return model


def names(root: Path) -> list[str]:
    found = (root / "out").rglob("*")
    return sorted(path.relative_to(root / "out").as_posix() for path in found if path.is_file())


def test_each_clip_is_a_folder_of_frames(tmp_path):
    predict_clips(tmp_path, suffix="_x2")
    folders = ("000000_x2", "000001_x2")
    frames = [f"{folder}/{n:04}.png" for folder in folders for n in (1, 2, 3)]
    assert names(tmp_path) == [*frames, NAME]
    pixels = [np.asarray(Image.open(tmp_path / "out" / frame)) for frame in frames]
    assert pixels[0].shape == (6, 9, 3)
    assert [int(frame[0, 0, 0]) for frame in pixels] == [0, 26, 51] * 2
    assert pixels[0][0, 0, 1] != pixels[3][0, 0, 1]
    lines = stored(tmp_path / "out")
    assert sorted(line["output"] for line in lines if "hash" in line) == list(folders)
    assert lines[0]["size"] == [6, 9]


def test_what_is_done_is_left_alone(tmp_path):
    assert predict_clips(tmp_path, 1).made == 1
    assert predict_clips(tmp_path, 2).made == 1
    shutil.rmtree(tmp_path / "out/000000")
    assert predict_clips(tmp_path, 2).made == 1
    assert predict_clips(tmp_path, 2, exif="drop").made == 2  # made otherwise
    assert len(names(tmp_path)) == 7


def test_a_clip_that_was_cut_off_is_made_again(tmp_path, monkeypatch):
    def cut_off(path: Path, *rest: Any) -> list[str]:
        if path.name == "0002.png":
            raise OSError(errno.ENOSPC, "the disk is full", str(path))
        return write_image(path, *rest)

    with monkeypatch.context() as patched:
        patched.setattr("callbacks.predict.writer.write_image", cut_off)
        with pytest.raises(OSError, match="full"):
            predict_clips(tmp_path, 1)
    assert names(tmp_path) == ["000000/0001.png", NAME]
    assert predict_clips(tmp_path, 1).made == 1
    assert len(names(tmp_path)) == 4
    assert predict_clips(tmp_path, 1).made == 0


KILLED = """
import os, sys
from pathlib import Path
from callbacks.predict import files
from tests.callbacks.predict.test_output_places import predict_clips
files.write_png = lambda *_: os.kill(os.getpid(), 9)
predict_clips(Path(sys.argv[1]), 1)
"""


def test_a_clip_whose_process_was_killed_is_made_again(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    (left,) = (tmp_path / "out/000000").iterdir()
    assert left.suffix == ".tmp"

    assert predict_clips(tmp_path, 1).made == 1
    assert len(names(tmp_path)) == 4


# ------------------------------------------------------------------ what is there and is not ours


@pytest.mark.parametrize(
    ("name", "settings"), [("notes.txt", {"exif": "drop"}), ("0001.png", {"format": "jpg"})]
)
def test_what_would_stay_among_the_new_frames_is_refused(tmp_path, name, settings):
    predict_clips(tmp_path, 1)
    (tmp_path / "out/000000/notes.txt").write_text("mine")
    before = names(tmp_path)
    assert predict_clips(tmp_path, 1).made == 0
    with pytest.raises(ValueError, match=f"000000 holds {name}, which would stay"):
        predict_clips(tmp_path, 1, **settings)
    assert names(tmp_path) == before


@pytest.mark.parametrize("kind", ["file", "link to a folder", "link to nowhere"])
def test_something_else_in_the_place_of_a_clip_stays(tmp_path, kind):
    (tmp_path / "out").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/0001.png").write_text("mine")
    place = tmp_path / "out/000000"
    if kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to(tmp_path / ("mine" if kind == "link to a folder" else "nowhere"))
    with pytest.raises(ValueError, match="000000"):
        predict_clips(tmp_path)
    assert (tmp_path / "mine/0001.png").read_text() == "mine"
    assert os.path.lexists(place)
