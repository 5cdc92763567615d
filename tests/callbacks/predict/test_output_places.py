"""Places of outputs: inputs and other files survive, of images and of clips."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import shutil

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image

from callbacks.predict.files import write_image
from callbacks.predict.predictions import NAME
from callbacks.predict.writer import Writer
from datamodules.base import SRDataModule
from datamodules.shards.shards import Shards
from datamodules.source import Source
from datamodules.sources.prompts import Seeds
from files.owned import MovedError
from lightning_modules.controls.simple import Bicubic
from tests.callbacks.predict.test_predictions import stored
from tests.callbacks.tiny import Tiny, trainer
from tests.datamodules.image_files import write_tar
from tests.datamodules.memory import Memory
from tests.datamodules.server import serving
from tests.make import files_of


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4)).save(path)
    return path


def enlarge(images, out, config=None, also=None, **settings):
    """Predict by bicubic at scale 2 into the folder `out`."""
    predict = images if isinstance(images, Source) else str(images)
    data = SRDataModule(2.0, predict=predict, workers=0)
    writer = Writer(folder=str(out), **settings)
    writer.config = config or {}
    others = [] if also is None else [also]
    trainer(out.parent, writer, *others).predict(Bicubic(2), data, return_predictions=False)


class Moves(Callback):
    """A user who moves the folder of outputs while they are written, and makes another."""

    def __init__(self, folder):
        self.folder = folder

    def on_predict_start(self, trainer, pl_module):
        self.folder.rename(self.folder.with_name("moved"))
        self.folder.mkdir()


def test_outputs_are_not_written_into_a_new_folder_in_the_place_of_a_moved_one(tmp_path):
    save(tmp_path / "in/a.png")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(MovedError):
        enlarge(tmp_path / "in", out, also=Moves(out))
    assert not list(out.iterdir())


def grey_of(path):
    with Image.open(path) as image:
        return np.asarray(image).mean()


@pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
def test_a_foreign_file_in_the_place_of_an_output_is_kept_with_an_error(tmp_path, kind):
    save(tmp_path / "in/a.jpg")
    place = tmp_path / "out/a.png"
    (tmp_path / "out").mkdir()
    if kind == "file":
        save(place)
    elif kind == "folder":
        save(place / "mine.png")
    else:
        place.symlink_to("/nowhere/a.png")
    before = files_of(tmp_path)

    with pytest.raises(ValueError, match=r"out/a\.png exists, and no line of predictions\.jsonl"):
        enlarge(tmp_path / "in", tmp_path / "out")

    assert files_of(tmp_path) == before
    assert os.path.lexists(place)


@pytest.mark.parametrize(
    ("source", "out"),
    [("out", "out"), ("out", "link"), ("out", "up/../out"), ("link", "out"), ("up/../out", "out")],
)
def test_an_output_that_would_replace_its_input_is_refused_for_any_path(tmp_path, source, out):
    """The input is an output of an earlier run, which a later one may replace otherwise."""
    enlarge(save(tmp_path / "in/a.png"), tmp_path / "out")
    (tmp_path / "link").symlink_to("out")
    (tmp_path / "up").mkdir()
    before = files_of(tmp_path / "out")

    with pytest.raises(ValueError, match=r"a\.png would overwrite an input"):
        enlarge(tmp_path / source / "a.png", tmp_path / out)

    assert files_of(tmp_path / "out") == before


@pytest.mark.parametrize("out", ["in", ".", "in/sub"])
def test_inputs_are_kept_if_outputs_are_beside_above_or_below_them(tmp_path, out):
    save(tmp_path / "in/a.jpg")
    save(tmp_path / "in/sub/b.jpg")
    before = files_of(tmp_path / "in")

    enlarge(tmp_path / "in", tmp_path / out, suffix="_x2")

    assert before.items() <= files_of(tmp_path / "in").items()
    assert (tmp_path / out / "a_x2.png").is_file()


def test_an_image_of_the_same_name_in_another_tar_is_enlarged_again(tmp_path):
    """A tar is recognised by its path and its content, or by its address if it comes by HTTP."""

    def grey_of_output(urls):
        folders = {"index_cache": f"{tmp_path}/indices", "cache_dir": f"{tmp_path}/cache"}
        enlarge(Shards(str(urls), **folders), tmp_path / "out")
        return grey_of(tmp_path / "out/k.png")

    image = tmp_path / "k.png"
    for grey in (10, 20, 30):
        Image.new("L", (5, 4), grey).save(image)
        write_tar(tmp_path / f"{grey}.tar", [("k.png", image.read_bytes())])

    assert grey_of_output(tmp_path / "10.tar") == 10
    assert grey_of_output(tmp_path / "20.tar") == 20
    (tmp_path / "30.tar").replace(tmp_path / "20.tar")  # which holds 30 from now on
    assert grey_of_output(tmp_path / "20.tar") == 30
    with serving(tmp_path) as server:
        assert grey_of_output(f"{server.url}/10.tar") == 10
        assert grey_of_output(f"{server.url}/20.tar") == 30


@pytest.mark.parametrize("option", ["root", "files", "gain"])
def test_an_output_of_a_source_without_files_is_made_again_if_its_options_change(tmp_path, option):
    """Its images have no files to compare, so the options alone tell what they are of.

    Where each input is a file, `root` and `files` do not count.
    """

    def grey_of_output(value, grey):
        image = np.full((4, 5, 3), grey, np.uint8)
        source = {"class_path": "my.Archive", "init_args": {option: value}}
        config = {"data": {"init_args": {"predict": source}}}
        enlarge(Memory({"k": {"hr": image}}), tmp_path / "out", config)
        return grey_of(tmp_path / "out/k.png")

    assert grey_of_output(value="a", grey=1) == 1
    assert grey_of_output(value="a", grey=2) == 1  # not made again
    assert grey_of_output(value="b", grey=3) == 3


# ------------------------------------------------------------------------------------------ clips


class Clips(Tiny):
    """Frame n is n / 10 red, and as green as the seed says."""

    made = 0

    def predict_step(self, batch, batch_idx):
        self.made += 1
        clip = torch.zeros(1, batch["frames"], 3, *batch["size"])
        clip[0, :, 0] = torch.arange(batch["frames"]).view(-1, 1, 1) / 10
        clip[0, :, 1] = int(batch["seed"]) % 200 / 255
        return {"sr": clip}


def make_clips(root, count, **settings):
    """Generate clips of three frames of 6x9 pixels; return how many were made."""
    data = SRDataModule(1.0, predict=Seeds(count, (6, 9), frames=3), workers=0)
    model = Clips()
    writer = Writer(folder=str(root / "out"), **settings)
    trainer(root, writer).predict(model, data, return_predictions=False)
    return model.made


def names(root):
    return sorted(files_of(root / "out"))


def test_each_clip_is_a_folder_of_frames(tmp_path):
    make_clips(tmp_path, count=2, suffix="_x2")

    paths = [f"00000{clip}_x2/000{frame}.png" for clip in (0, 1) for frame in (1, 2, 3)]
    frames = [np.asarray(Image.open(tmp_path / "out" / path)) for path in paths]
    reds = [frame[0, 0, 0] for frame in frames]
    assert names(tmp_path) == [*paths, NAME]
    assert frames[0].shape == (6, 9, 3)
    assert reds == [0, 26, 51, 0, 26, 51]  # 0, 0.1 and 0.2 of 255
    assert frames[0][0, 0, 1] != frames[3][0, 0, 1]  # green: the clips have seeds of their own
    # A clip has a line before its frames, and one with a hash when it is complete.
    complete = [line for line in stored(tmp_path / "out") if "hash" in line]
    assert sorted(line["output"] for line in complete) == ["000000_x2", "000001_x2"]
    assert complete[0]["size"] == [6, 9]


def test_only_clips_that_are_new_deleted_or_of_other_settings_are_made(tmp_path):
    assert make_clips(tmp_path, count=1) == 1
    assert make_clips(tmp_path, count=2) == 1
    shutil.rmtree(tmp_path / "out/000000")
    assert make_clips(tmp_path, count=2) == 1
    assert make_clips(tmp_path, count=2, exif="drop") == 2
    assert len(names(tmp_path)) == 2 * 3 + 1  # frames, and predictions.jsonl


def test_a_clip_whose_writing_failed_is_made_again(tmp_path, monkeypatch):
    def cut_off(path, *arguments):
        if path.name == "0002.png":
            raise OSError(errno.ENOSPC, "the disk is full", str(path))
        return write_image(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr("callbacks.predict.writer.write_image", cut_off)
        with pytest.raises(OSError, match="full"):
            make_clips(tmp_path, count=1)
    assert names(tmp_path) == ["000000/0001.png", NAME]

    assert make_clips(tmp_path, count=1) == 1
    assert len(names(tmp_path)) == 3 + 1  # frames, and predictions.jsonl


def test_a_clip_whose_process_was_killed_is_made_again(tmp_path, monkeypatch):
    run = multiprocessing.get_context("fork").Process(target=make_clips, args=(tmp_path, 1))
    with monkeypatch.context() as patch:
        patch.setattr("callbacks.predict.files.write_png", lambda *_: os.kill(os.getpid(), 9))
        gc.collect()  # a fork that frees another test's video decoder waits for its threads forever
        run.start()
        run.join()
    [left] = (tmp_path / "out/000000").iterdir()
    assert left.suffix == ".tmp"

    assert make_clips(tmp_path, count=1) == 1
    assert len(names(tmp_path)) == 3 + 1  # frames, and predictions.jsonl


# ------------------------------------------------------------------ what is there and is not ours


@pytest.mark.parametrize(
    ("name", "settings"),
    [("notes.txt", {"exif": "drop"}), ("0001.png", {"format": "jpg"})],
    ids=["a file of the user", "frames of another format"],
)
def test_a_clip_is_not_made_again_among_files_that_would_stay(tmp_path, name, settings):
    """New frames replace those of the same names only: the folder would hold a mixture."""
    make_clips(tmp_path, count=1)
    (tmp_path / "out/000000/notes.txt").write_text("mine")
    before = names(tmp_path)

    assert make_clips(tmp_path, count=1) == 0  # with the same settings it is done
    with pytest.raises(ValueError, match=f"000000 holds {name}, which would stay"):
        make_clips(tmp_path, count=1, **settings)

    assert names(tmp_path) == before


@pytest.mark.parametrize("target", [None, "mine", "nowhere"], ids=["file", "link", "broken link"])
def test_a_foreign_file_or_link_in_the_place_of_a_clip_is_kept_with_an_error(tmp_path, target):
    (tmp_path / "out").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/0001.png").write_text("mine")
    place = tmp_path / "out/000000"
    if target:
        place.symlink_to(tmp_path / target)
    else:
        place.write_text("mine")

    with pytest.raises(ValueError, match=r"000000 exists, and no line of predictions\.jsonl"):
        make_clips(tmp_path, count=1)

    assert (tmp_path / "mine/0001.png").read_text() == "mine"
    assert os.path.lexists(place)
