"""Clips of predict: frames, earlier outputs, and interrupted ones."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from callbacks.predict import files as clip_files
from callbacks.predict.files import write_clip
from callbacks.predict.predictions import NAME
from callbacks.predict.writer import Writer
from datamodules.base import SRDataModule
from datamodules.sources.prompts import Seeds
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


def test_a_folder_of_frames_for_each_clip(tmp_path: Path) -> None:
    predict(tmp_path, suffix="_x2")
    folders = ("000000_x2", "000001_x2")
    frames = [f"{folder}/{n:04}.png" for folder in folders for n in (1, 2, 3)]
    assert names(tmp_path) == [*frames, NAME]
    pixels = [np.asarray(Image.open(tmp_path / "out" / frame)) for frame in frames]
    assert pixels[0].shape == (6, 9, 3)
    assert [int(p[0, 0, 0]) for p in pixels] == [0, 26, 51] * 2
    assert pixels[0][0, 0, 1] != pixels[3][0, 0, 1]
    lines = [json.loads(line) for line in (tmp_path / "out" / NAME).read_text().splitlines()]
    assert sorted(line["output"] for line in lines) == list(folders)  # threads write them
    assert lines[0]["size"] == [6, 9]


def test_what_is_done_is_left_alone(tmp_path: Path) -> None:
    assert predict(tmp_path, 1).made == 1
    assert predict(tmp_path, 2).made == 1
    shutil.rmtree(tmp_path / "out/000000")
    assert predict(tmp_path, 2).made == 1
    assert len(names(tmp_path)) == 7


def test_an_old_clip_stays_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.zeros((3, 4, 5, 3), np.uint8)
    target = tmp_path / "a"
    write_clip(target, frames, "png", 95, list)
    own, written = clip_files.write_image, []

    def cut_off(path: Path, *rest: Any) -> None:
        if written:
            raise OSError("the disk is full")
        written.append(own(path, *rest))  # type: ignore[func-returns-value]

    monkeypatch.setattr(clip_files, "write_image", cut_off)
    with pytest.raises(OSError, match="full"):
        write_clip(target, frames + 9, "png", 95, list)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert len(list(target.iterdir())) == 3
    assert not np.asarray(Image.open(target / "0001.png")).any()


def test_another_format_is_noticed(tmp_path: Path) -> None:
    """A clip's name does not have it."""
    predict(tmp_path)
    assert predict(tmp_path, format="jpg").made == 2
    assert names(tmp_path)[:3] == [f"000000/{n:04}.jpg" for n in (1, 2, 3)]


# ------------------------------------------------------------------ what is there and is not ours


@pytest.mark.parametrize("name", ["notes.txt", "0004.png", "mine/0001.png", "0001.psd"])
def test_what_a_user_put_among_the_frames_is_not_removed_with_them(
    tmp_path: Path, name: str
) -> None:
    predict(tmp_path)
    mine = tmp_path / "out/000000" / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    before = names(tmp_path)
    assert predict(tmp_path).made == 0
    with pytest.raises(ValueError, match=f"000000 holds {name}, which Enlarger did not write"):
        predict(tmp_path, format="jpg")
    assert names(tmp_path) == before
    mine.rename(tmp_path / "kept")
    if mine.parent.name == "mine":
        mine.parent.rmdir()
    assert predict(tmp_path, format="jpg").made == 2


@pytest.mark.parametrize("kind", ["file", "link to a folder", "link to nowhere"])
def test_something_else_in_the_place_of_a_clip(tmp_path: Path, kind: str) -> None:
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
