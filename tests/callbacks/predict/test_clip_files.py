"""Clips of predict: frames, earlier outputs, and interrupted ones."""

from __future__ import annotations

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
from datamodules.sources.prompts import Seeds
from tests.callbacks.predict.test_predictions import stored
from tests.callbacks.tiny import Tiny, trainer


class Clips(Tiny):
    """Frames with the frame's number as red, and the seed as green."""

    made = 0

    def predict_step(self, batch: Any, *indices: int) -> dict[str, Tensor]:
        self.made += 1
        clip = torch.zeros(1, batch["frames"], 3, *batch["size"])
        clip[0, :, 0] = torch.arange(batch["frames"]).view(-1, 1, 1) / 10
        clip[0, :, 1] = int(batch["seed"]) % 200 / 255
        return {"sr": clip}


def predict(root: Path, count: int = 2, size: Any = (6, 9), **settings: Any) -> Clips:
    data = SRDataModule(1.0, predict=Seeds(count, size, frames=3), workers=0)
    model = Clips()
    writer = Writer(folder=str(root / "out"), **settings)
    trainer(root, writer).predict(model, data, return_predictions=False)
    return model


def names(root: Path) -> list[str]:
    found = (root / "out").rglob("*")
    return sorted(path.relative_to(root / "out").as_posix() for path in found if path.is_file())


def test_each_clip_is_a_folder_of_frames(tmp_path):
    predict(tmp_path, suffix="_x2")
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
    assert predict(tmp_path, 1).made == 1
    assert predict(tmp_path, 2).made == 1
    shutil.rmtree(tmp_path / "out/000000")
    assert predict(tmp_path, 2).made == 1
    assert predict(tmp_path, 2, exif="drop").made == 2  # made otherwise
    assert len(names(tmp_path)) == 7


def test_a_clip_that_was_cut_off_is_made_again(tmp_path, monkeypatch):
    def cut_off(path: Path, *rest: Any) -> list[str]:
        if path.name == "0002.png":
            raise OSError("the disk is full")
        return write_image(path, *rest)

    with monkeypatch.context() as patched:
        patched.setattr("callbacks.predict.writer.write_image", cut_off)
        with pytest.raises(OSError, match="full"):
            predict(tmp_path, 1)
    assert names(tmp_path) == ["000000/0001.png", NAME]
    assert predict(tmp_path, 1).made == 1
    assert len(names(tmp_path)) == 4
    assert predict(tmp_path, 1).made == 0


KILLED = """
import os, sys
from pathlib import Path
from callbacks.predict import files
from tests.callbacks.predict.test_clip_files import predict
files.write_png = lambda *_: os.kill(os.getpid(), 9)
predict(Path(sys.argv[1]), 1)
"""


def test_a_clip_whose_process_was_killed_is_made_again(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    (left,) = (tmp_path / "out/000000").iterdir()
    assert left.suffix == ".tmp"

    assert predict(tmp_path, 1).made == 1
    assert len(names(tmp_path)) == 4


# ------------------------------------------------------------------ what is there and is not ours


@pytest.mark.parametrize(
    ("name", "settings"), [("notes.txt", {"exif": "drop"}), ("0001.png", {"format": "jpg"})]
)
def test_what_would_stay_among_the_new_frames_is_refused(tmp_path, name, settings):
    predict(tmp_path, 1)
    (tmp_path / "out/000000/notes.txt").write_text("mine")
    before = names(tmp_path)
    assert predict(tmp_path, 1).made == 0
    with pytest.raises(ValueError, match=f"000000 holds {name}, which would stay"):
        predict(tmp_path, 1, **settings)
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
        predict(tmp_path)
    assert (tmp_path / "mine/0001.png").read_text() == "mine"
    assert os.path.lexists(place)
