"""predictions.jsonl: complete lines from many writers, and the decisions of later runs."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from callbacks.predict.predictions import (
    NAME,
    Predictions,
    RunProperties,
    digest_of,
    options_of,
    outputs_in,
)
from files.owned import MovedError, free_place, hold_place
from files.paths import size_and_time


def run(**changes):
    """The properties of a run that decide which outputs a later run leaves as they are."""
    properties = {
        "model": "a.Model",
        "weights": "w.ckpt",
        "weights_digest": "ab",
        "commit": "c",
        "options": {"model.init_args.steps": 15, "data.init_args.scale": 4.0},
    }
    return RunProperties(**{**properties, **changes})


OTHER_STEPS = {"model.init_args.steps": 4, "data.init_args.scale": 4.0}


def line(**changes):
    return {"key": "a", "output": "a.png", "seed": None, **changes}


def add(folder, run, source=None, seed=None):
    """Note that a run has made a.png."""
    predictions = Predictions(folder, run)
    place = source and str(source)
    digest = predictions.hash(place, size_and_time(place) if place else None, seed)
    predictions.add(line(hash=digest))


def is_done(folder, run, source=None, seed=0):
    """Whether a run would leave a.png as it is."""
    predictions = Predictions(folder, run, seed)
    made = predictions.find("a.png")
    return made is not None and predictions.is_done(made, source and str(source))


def stored(folder):
    return [json.loads(text) for text in (folder / NAME).read_text().splitlines()]


# ------------------------------------------------------------------------------------------ lines


def write_many(folder, name):
    predictions = Predictions(folder, run())
    for number in range(50):
        predictions.add(line(output=f"{name}-{number}", key="x" * 5000))


def test_lines_of_processes_and_threads_that_write_at_once_are_whole(tmp_path):
    fork = multiprocessing.get_context("fork")  # fast, so that they run at the same time
    writers = []
    for number in range(3):
        writers.append(fork.Process(target=write_many, args=(tmp_path, f"process{number}")))
        writers.append(threading.Thread(target=write_many, args=(tmp_path, f"thread{number}")))

    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    outputs = {made["output"] for made in stored(tmp_path)}  # each line is JSON
    assert len(outputs) == 6 * 50  # writers, lines


def test_after_a_line_that_was_cut_off_later_lines_are_read(tmp_path):
    add(tmp_path, run())
    complete = (tmp_path / NAME).read_bytes()
    cut_off = complete.replace(b"a.png", b"b.png")[:-20]
    (tmp_path / NAME).write_bytes(complete + cut_off)

    Predictions(tmp_path, run()).add(line(output="c.png"))

    assert is_done(tmp_path, run())
    assert outputs_in(tmp_path) == {"a.png", "c.png"}


# ---------------------------------------------------------------------------- what a next run does


def test_an_output_stays_done_if_weights_are_moved_or_the_commit_changes(tmp_path):
    add(tmp_path, run())

    assert is_done(tmp_path, run(weights="elsewhere.ckpt", commit="d"))


@pytest.mark.parametrize(
    "changes",
    [{"options": OTHER_STEPS}, {"model": "a.Other"}, {"weights_digest": "cd"}],
    ids=["options", "model", "weights"],
)
def test_an_output_of_other_options_model_or_weights_is_not_done(tmp_path, changes):
    add(tmp_path, run())

    assert not is_done(tmp_path, run(**changes))


def test_an_output_of_another_seed_is_done_unless_noise_was_drawn(tmp_path):
    add(tmp_path, run(), seed=None)  # no noise
    assert is_done(tmp_path, run(), seed=1)

    add(tmp_path, run(), seed=0)
    assert is_done(tmp_path, run(), seed=0)
    assert not is_done(tmp_path, run(), seed=1)


def test_of_the_lines_of_an_output_the_last_one_without_an_error_counts(tmp_path):
    other = run(options=OTHER_STEPS)

    add(tmp_path, run())
    add(tmp_path, other)
    Predictions(tmp_path, other).add(line(error="could not be read any more"))

    assert is_done(tmp_path, other)
    assert not is_done(tmp_path, run())


def test_an_output_of_another_input_of_equal_size_and_time_is_not_done(tmp_path):
    """The files of an archive may all have one time."""
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.bmp").write_bytes(name.encode())
        os.utime(tmp_path / name / "a.bmp", (0, 0))

    add(tmp_path, run(), tmp_path / "x/a.bmp")

    assert not is_done(tmp_path, run(), tmp_path / "y/a.bmp")


def test_an_output_stays_done_if_its_input_is_moved_along_with_it(tmp_path, monkeypatch):
    (tmp_path / "all/in").mkdir(parents=True)
    (tmp_path / "all/in/a.bmp").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    add(tmp_path / "all", run(), Path("all/in/a.bmp"))

    Path("all").rename("moved")

    monkeypatch.chdir("moved/in")
    assert is_done(tmp_path / "moved", run(), Path("a.bmp"))


def test_an_output_of_an_input_that_changed_or_is_gone_is_not_done(tmp_path):
    source = tmp_path / "a.jpg"

    def write(content, time):
        source.write_bytes(content)
        os.utime(source, (time, time))

    write(b"first", time=1)
    add(tmp_path, run(), source)

    write(b"first", time=2)
    assert not is_done(tmp_path, run(), source)
    write(b"of another size", time=1)
    assert not is_done(tmp_path, run(), source)
    write(b"first", time=1)
    assert is_done(tmp_path, run(), source)
    source.unlink()
    assert not is_done(tmp_path, run(), source)


# ---------------------------------------------------------------------- what a line is made up of


def test_options_of_a_run_are_those_that_change_an_output():
    """Else all outputs would be made again on another number of devices, say.

    Left out are settings of the training, of memory and of reading, places, and what is not set.
    """
    arguments = {
        "scale": 4.0,
        "steps": 15,
        "start": None,
        "weights": "w.ckpt",  # which are compared by their content
        "network": {"class_path": "b.Net", "init_args": {"widths": [32, 64]}},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1.0}},
        "lr_scheduler": {"class_path": "x.Y"},
    }
    config = {
        "seed_everything": 0,
        "model": {"class_path": "a.Model", "init_args": arguments},
        "data": {"init_args": {"scale": 4.0, "size": [768, 1024], "workers": 2, "predict": "in"}},
        "trainer": {"precision": "bf16-mixed", "devices": 2},
        "tiling": {"where": "latent", "batch": 8},
        "writer": {"folder": "out"},
        "run": {"name": "r"},
        "ckpt_path": None,
    }

    options = options_of(config)

    assert options == {
        "model.class_path": "a.Model",
        "model.init_args.scale": 4.0,
        "model.init_args.steps": 15,
        "model.init_args.network.class_path": "b.Net",
        "model.init_args.network.init_args.widths": [32, 64],
        "data.init_args.scale": 4.0,
        "data.init_args.size": [768, 1024],
        "trainer.precision": "bf16-mixed",
        "tiling.where": "latent",
    }


def test_options_of_a_source_are_those_that_change_an_image():
    """How many images it has, and where it keeps copies, changes none of them."""
    arguments = {"count": 3, "cache_dir": "d", "size": [64, 32], "scale": None}
    source = {"class_path": "datamodules.Seeds", "init_args": arguments}

    options = options_of({"data": {"init_args": {"predict": source}}})

    assert options == {
        "data.init_args.predict.class_path": "datamodules.Seeds",
        "data.init_args.predict.init_args.size": [64, 32],
    }


def test_a_digest_of_weights_changes_with_names_and_values_of_tensors():
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)).to(torch.bfloat16)
    renamed = nn.ModuleDict({"a": net[0], "b": net[1]})

    digest = digest_of(net)

    assert digest is not None
    assert digest_of(net) == digest
    assert digest_of(renamed) != digest
    net[1].running_mean[1] = 1
    assert digest_of(net) != digest


def test_a_network_without_tensors_has_no_digest():
    assert digest_of(nn.ReLU()) is None


def test_no_line_is_written_to_a_folder_that_was_moved(tmp_path):
    """Else a run would go on in a new folder of the old name, without the outputs so far."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    hold_place(folder)  # as a run does at its beginning
    folder.rename(tmp_path / "moved")

    with pytest.raises(MovedError):
        Predictions(folder, run()).add(line())

    free_place(folder)
    assert not folder.exists()
