"""Places of outputs: inputs and other files survive, for any settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from callbacks.predict.writer import Writer
from datamodules.base import SRDataModule
from lightning_modules.controls.simple import Bicubic
from tests.callbacks.tiny import trainer


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4)).save(path)
    return path


def enlarge(folder: Path, out: Path, **settings: Any) -> None:
    data = SRDataModule(2.0, predict=str(folder), workers=0)
    writer = Writer(folder=str(out), **settings)
    trainer(out.parent, writer).predict(Bicubic(2), data, return_predictions=False)


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def refused(folder: Path, out: Path, sentence: str) -> None:
    """Nothing is changed."""
    before = files(folder), files(out)
    with pytest.raises((ValueError, OSError), match=sentence):
        enlarge(folder, out)
    assert (files(folder), files(out)) == before


def folder_of_others(place: Path) -> None:
    save(place / "mine.png")


@pytest.mark.parametrize(
    "make",
    [
        save,
        folder_of_others,
        Path.mkdir,
        os.mkfifo,
        lambda place: place.symlink_to(place.parent),
        lambda place: place.symlink_to("/nowhere/a.png"),
    ],
)
def test_something_else_in_the_place_of_an_output(tmp_path: Path, make: Any) -> None:
    save(tmp_path / "in/a.jpg")
    (tmp_path / "out").mkdir()
    make(tmp_path / "out/a.png")
    sentence = r"out/a\.png exists, and no line of predictions\.jsonl says that Enlarger wrote it"
    refused(tmp_path / "in", tmp_path / "out", sentence)
    assert os.path.lexists(tmp_path / "out/a.png")


def test_a_pipe_in_the_place_of_the_lines(tmp_path: Path) -> None:
    save(tmp_path / "in/a.jpg")
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out/predictions.jsonl")
    refused(tmp_path / "in", tmp_path / "out", "regular file")


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_another_name_of_an_input(tmp_path: Path, link: Any) -> None:
    save(tmp_path / "in/a.png")
    (tmp_path / "out").mkdir()
    link(tmp_path / "in/a.png", tmp_path / "out/a.png")
    refused(tmp_path / "in", tmp_path / "out", r"a\.png would overwrite an input")


@pytest.mark.parametrize("out", ["in", ".", "in/sub", "in/new"])
def test_beside_below_and_above_inputs(tmp_path: Path, out: str) -> None:
    save(tmp_path / "in/a.jpg")
    save(tmp_path / "in/sub/b.jpg")
    before = files(tmp_path / "in")
    enlarge(tmp_path / "in", tmp_path / out, suffix="_x2")
    assert before.items() <= files(tmp_path / "in").items()
    assert (tmp_path / out / "a_x2.png").is_file()
