"""predictions.jsonl: complete lines from many writers, and the decisions of later runs."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from callbacks.predict.predictions import (
    NAME,
    Line,
    Predictions,
    RunProperties,
    digest_of,
    options_of,
    outputs_in,
)
from files.owned import MovedError, free_place, hold_place
from files.paths import size_and_time


def made(**changed: Any) -> RunProperties:
    options = {"model.init_args.steps": 15, "data.init_args.scale": 4.0}
    fields: dict[str, Any] = {
        **{"model": "a.Model", "weights": "w.ckpt", "weights_digest": "ab", "commit": "c"},
        "options": {**options, **changed.pop("options", {})},
    }
    return RunProperties(**{**fields, **changed})


def is_done(folder: Path, now: RunProperties, source: Path | None = None, seed: int = 0) -> bool:
    predictions = Predictions(folder, now, seed)
    made = predictions.find("a.png")
    return made is not None and predictions.is_done(made, source and str(source))


def add(
    folder: Path, run: RunProperties, source: Path | None = None, seed: int | None = None
) -> None:
    predictions = Predictions(folder, run)
    place = source and str(source)
    digest = predictions.hash(place, size_and_time(place) if place else None, seed)
    predictions.add(line(hash=digest))


def line(**changed: Any) -> Line:
    return Line(**{"key": "a", "output": "a.png", "seed": None, **changed})  # type: ignore[typeddict-item]


def stored(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (folder / NAME).read_text().splitlines()]


# ------------------------------------------------------------------------------------------ lines


def write_many(folder: Path, name: str, count: int) -> None:
    predictions = Predictions(folder, made())
    for number in range(count):
        predictions.add(line(output=f"{name}-{number}", key="x" * 5000))


def test_processes_and_threads_do_not_mix_their_lines(tmp_path):
    fork = multiprocessing.get_context("fork")  # fast, so that they run at the same time
    writers: list[Any] = []
    for number in range(3):
        writers.append(fork.Process(target=write_many, args=(tmp_path, f"process{number}", 50)))
        writers.append(threading.Thread(target=write_many, args=(tmp_path, f"thread{number}", 50)))
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len({found["output"] for found in stored(tmp_path)}) == 300


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path):
    add(tmp_path, made())
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole + whole.replace(b"a.png", b"b.png")[:-20])
    Predictions(tmp_path, made()).add(line(output="c.png"))
    assert is_done(tmp_path, made())
    assert outputs_in(tmp_path) == {"a.png", "c.png"}


# ---------------------------------------------------------------------------- what a next run does


def test_the_same_run_again_makes_the_same(tmp_path):
    add(tmp_path, made())
    # Independent of the weights' path and of the commit.
    assert is_done(tmp_path, made(weights="elsewhere.ckpt", commit="d"))


@pytest.mark.parametrize(
    "changed",
    [
        {"options": {"model.init_args.steps": 4}},
        {"model": "a.Other"},
        {"weights_digest": "cd"},
    ],
)
def test_what_is_made_another_way_is_not_done(tmp_path, changed):
    add(tmp_path, made())
    assert not is_done(tmp_path, made(**changed))


def test_a_seed_matters_where_noise_was_drawn(tmp_path):
    add(tmp_path, made(), seed=None)
    assert is_done(tmp_path, made(), seed=1)
    add(tmp_path, made(), seed=0)
    assert is_done(tmp_path, made(), seed=0)
    assert not is_done(tmp_path, made(), seed=1)


def test_the_last_line_of_an_output_holds(tmp_path):
    four = made(options={"model.init_args.steps": 4})
    add(tmp_path, made())
    add(tmp_path, four)
    Predictions(tmp_path, four).add(line(error="could not be read any more"))
    assert is_done(tmp_path, four)
    assert not is_done(tmp_path, made())


def test_an_input_is_known_by_its_folder_below_that_of_the_outputs(tmp_path, monkeypatch):
    """Archives give their files one time; inputs and outputs may be moved together."""
    monkeypatch.chdir(tmp_path)
    for name in ("x", "y"):
        Path("all", name).mkdir(parents=True)
        Path("all", name, "a.bmp").write_bytes(name.encode())
        os.utime(f"all/{name}/a.bmp", (0, 0))
    add(tmp_path / "all", made(), Path("all/x/a.bmp"))
    assert not is_done(tmp_path / "all", made(), Path("all/y/a.bmp"))
    Path("all").rename("moved")
    monkeypatch.chdir("moved/x")
    assert is_done(tmp_path / "moved", made(), Path("a.bmp"))


def test_an_input_that_changed_is_not_done(tmp_path):
    source = tmp_path / "a.jpg"
    source.write_bytes(b"first")
    add(tmp_path, made(), source)
    assert is_done(tmp_path, made(), source)
    os.utime(source, ns=(0, 0))
    assert not is_done(tmp_path, made(), source)
    source.unlink()
    assert not is_done(tmp_path, made(), source)


# ---------------------------------------------------------------------- what a line is made up of


def test_options_are_what_changes_an_output():
    config = {
        "seed_everything": 0,
        "model": {
            "class_path": "a.Model",
            "init_args": {
                **{"scale": 4.0, "steps": 15, "start": None, "weights": "w.ckpt"},
                "network": {"class_path": "b.Net", "init_args": {"widths": [32, 64]}},
                "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1.0}},
                "lr_scheduler": {"class_path": "x.Y"},
            },
        },
        "data": {"init_args": {"scale": 4.0, "size": [768, 1024], "workers": 2, "predict": "in"}},
        "trainer": {"precision": "bf16-mixed", "devices": 2},
        "tiling": {"where": "latent", "batch": 8},
        **{"writer": {"folder": "out"}, "run": {"name": "r"}, "ckpt_path": None},
    }
    assert options_of(config) == {
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


def test_options_of_a_source_are_what_changes_an_image():
    def options(**init_args: Any) -> dict[str, Any]:
        source = {"class_path": "datamodules.Seeds", "init_args": init_args}
        return options_of({"data": {"init_args": {"predict": source}}})

    prefix = "data.init_args.predict."
    assert options(count=3, cache_dir="d", size=[64, 32], scale=None) == {
        f"{prefix}class_path": "datamodules.Seeds",
        f"{prefix}init_args.size": [64, 32],
    }


def test_a_digest_is_of_all_tensors_and_their_names():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)).to(torch.bfloat16)
    same = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)).to(torch.bfloat16)
    same.load_state_dict(net.state_dict())
    first = digest_of(net)
    assert first is not None
    assert digest_of(same) == first
    assert digest_of(nn.ModuleDict({"a": net[0], "b": net[1]})) != first
    buffer = same[1].running_mean
    assert isinstance(buffer, torch.Tensor)
    buffer[1] = 1
    assert digest_of(same) != first
    assert digest_of(nn.ReLU()) is None


def test_no_line_is_written_to_a_folder_that_was_moved(tmp_path):
    folder = tmp_path / "outputs"
    folder.mkdir()
    hold_place(folder)
    folder.rename(tmp_path / "moved")
    with pytest.raises(MovedError):
        Predictions(folder, made()).add(line())
    free_place(folder)
    assert not folder.exists()
