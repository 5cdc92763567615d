"""`--help` is readable for every command and class, and quick."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docstring_parser
import pytest
from lightning.pytorch import Callback, Trainer
from torch import nn

from callbacks.predict.writer import Writer
from commands.arguments.help import SHOWN, short_help
from commands.encode import EncodeOptions
from commands.export.export import ExportOptions
from commands.options import SOURCES, options
from commands.run.checkpoints import Checkpoints
from commands.run.directory import RunOptions
from datamodules.base import Augmentation, Source, SRDataModule
from degradations.base import Degradation, Stage
from lightning_modules.base import ImageModel
from lightning_modules.sampling.tiling import Tiling
from tests.conftest import REPO
from tests.contracts import discovery
from tests.quick import quick

# Packages that are slow to import, and that no help needs.
HEAVY = ("diffusers", "kornia", "albumentations", "lpips")

# Typed words, and parts of the answer.
ASKED: dict[str, tuple[str, ...]] = {
    "--help": (
        "Train, compare and run image super-resolution.",
        "Train a model; the same command again continues the run.",
        "Measure the run's best weights on the validation images.",
        "Measure the run's best weights on the test images.",
        "Enlarge a folder of images with the run's best weights.",
    ),
    "fit --help": (
        "Train a model; the same command again continues the run.",
        "--data.batch_size training crops in one micro-batch, summed over all processes",
        "--run.overwrite start a new run",
        "main.py fit --help all lists all",
    ),
    "fit --model.help": ("lightning_modules.InvSR Diffusion inversion",),
    "fit --trainer.callbacks.help --debug": ("callbacks.PSNR",),
    "fit --help all": (
        "Train a model; the same command again continues the run.",
        "--config",
        "--seed_everything",
        "--trainer.max_steps",
        "--model.help",
        "--data.help",
        "--degradation.help",
        "--run.root ROOT Folder of all runs.",
        "--run.name NAME Name of the run's folder; by default that of the experiment",
        "Resume although the configuration differs",
        "--checkpoint.every_n_steps EVERY_N_STEPS Steps between two checkpoints; 0 for none by",
    ),
    "predict --help all": (
        "Enlarge a folder of images with the run's best weights.",
        "--writer.suffix SUFFIX Added to each name, e.g. ``_x2``.",
    ),
    "fit --model.help lightning_modules.Regression": (
        "Train any network to predict the high-resolution image directly",
        "--model.network NETWORK The network: a class whose first argument is the scale",
        "``l1``, or ``charbonnier``",
    ),
    "fit --data.help datamodules.SRDataModule": (
        "--data.crop_size CROP_SIZE Side of the training crops in HR pixels",
    ),
    "fit --data.train.help datamodules.Folder": (
        "Images of a folder and its subfolders",
        "The folder, or one image.",
    ),
    "fit --degradation.help degradations.Bicubic": ("--degradation.scale",),
}
# Answered by a process of its own, to see what they import and how long they take.
ALONE = ("--help", "fit --help", "fit --help all", "fit --model.help lightning_modules.Regression")
SCRIPT = f"""
import contextlib, io, json, sys, time
started = time.process_time()
import lightning.pytorch.cli
imported = time.process_time()
sys.path.insert(0, {str(REPO)!r})
import main
answers = {{}}
for asked in {ALONE!r}:
    text, begun = io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(text):
        try:
            main.main(asked.split())
        except SystemExit as stopped:
            status = stopped.code
    seconds = time.process_time() - begun
    answers[asked] = {{"text": text.getvalue(), "status": status, "seconds": seconds}}
heavy = [name for name in {HEAVY!r} if name in sys.modules]
json.dump({{"import": imported - started, "answers": answers, "heavy": heavy}}, sys.stdout)
"""


@pytest.fixture(scope="module")
def got() -> dict[str, Any]:
    """Return the answers of `ALONE`."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("asked", ASKED)
def test_says(asked: str, enlarger: Callable[..., None], request: pytest.FixtureRequest) -> None:
    if asked in ALONE:
        answer = request.getfixturevalue("got")["answers"][asked]
    else:
        with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as stopped:
            enlarger(*asked.split())
        answer = {"status": stopped.value.code, "text": out.getvalue()}
    assert answer["status"] == 0
    text = " ".join(answer["text"].split())
    assert [part for part in ASKED[asked] if part not in text] == []


def test_imports_nothing_heavy(got: dict[str, Any]) -> None:
    assert got["heavy"] == []


@pytest.mark.parametrize("asked", ["--help", "fit --help"])
def test_short_help_takes_no_time(got: dict[str, Any], asked: str) -> None:
    assert got["answers"][asked]["seconds"] < 0.1 * got["import"]


@pytest.mark.parametrize("command", quick(SHOWN, "fit", "predict", "export"))
def test_the_short_help_names_options_that_there_are(
    tiny: Path, configured: Callable[..., Any], command: str
) -> None:
    keys = [key for key in SHOWN[command] if key not in ("RUN", "debug", "print_config")]
    assert len(keys) == len({*keys})
    assert 5 < len(keys) < 30
    found = configured(command, "--config", "tiny.yaml")
    inside = {"data": inspect.signature(SRDataModule), "model": inspect.signature(ImageModel)}
    for key in keys:
        group, _, name = key.partition(".")
        if name and group in inside:
            assert name.partition(".")[0] in inside[group].parameters, key
        else:
            assert key in found, key
    assert all(f"--{key} " in short_help(command) for key in keys)


@pytest.mark.parametrize("group", SOURCES)
def test_options_are_those_of_the_class(group: str) -> None:
    classes = {
        "data": SRDataModule,
        "run": RunOptions,
        "tiling": Tiling,
        "checkpoint": Checkpoints,
        "writer": Writer,
        "encode": EncodeOptions,
        "export": ExportOptions,
        "trainer": Trainer,
    }
    named = inspect.signature(classes[group]).parameters
    assert options(group).keys() == named.keys()
    if group != "trainer":
        assert all(option.about for option in options(group).values())


# ------------------------------------------------------------------------------------ every class

BASES = {
    "stage": (Stage, "degradations"),
    "degradation": (Degradation, "degradations"),
    "source": (Source, "datamodules"),
    "augmentation": (Augmentation, "datamodules"),
    "data": (SRDataModule, "datamodules"),
    "model": (ImageModel, "lightning_modules"),
    "network": (nn.Module, "lightning_modules.networks"),
    "callback": (Callback, "callbacks"),
    "checkpoint": (Callback, "commands"),
}
CLASSES = [
    *(
        cls
        for base, package in BASES.values()
        for cls in discovery.concrete_subclasses(base, package)
    ),
    SRDataModule,
]


def test_classes_are_found() -> None:
    names = {cls.__name__ for cls in CLASSES}
    assert {"Regression", "Folder", "Bicubic", "PSNR", "EDSR", "Checkpoints"} <= names


@pytest.mark.parametrize("cls", CLASSES, ids=discovery.full_name)
def test_every_argument_is_explained(cls: type) -> None:
    parsed = docstring_parser.parse(inspect.getdoc(cls) or "")
    assert parsed.short_description
    explained = {p.arg_name for p in parsed.params if (p.description or "").strip()}
    own = cls.__init__ is not object.__init__
    arguments = list(inspect.signature(cls).parameters) if own else []
    if cls.__module__.startswith("lightning_modules.networks") and "__init__" not in vars(cls):
        arguments = []  # of torch
    assert [name for name in arguments if name not in explained | {"args", "kwargs"}] == []
    assert explained <= set(arguments)
