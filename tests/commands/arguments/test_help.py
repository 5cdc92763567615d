"""`--help` is readable for every command and class, and quick."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands.arguments.help import SHOWN, short_help
from datamodules.base import SRDataModule
from lightning_modules.base import ImageModel
from tests.quick import quick

# Typed words, and parts of the answer.
ASKED: dict[str, tuple[str, ...]] = {
    "--help": (
        "Train, compare and run image super-resolution.",
        "Train a model; the same command again continues the run.",
    ),
    "fit --help": (
        "--data.batch_size training crops in one micro-batch, summed over all processes",
        "--run.overwrite start a new run",
        "main.py fit --help all lists all",
    ),
    "fit --model.help": ("lightning_modules.InvSR Diffusion inversion",),
    "fit --trainer.callbacks.help --debug": ("callbacks.PSNR",),
    "fit --help all": (
        "--config",
        "--trainer.max_steps",
        "--model.help",
        "--run.root ROOT Folder of all runs.",
        "--checkpoint.every_n_steps EVERY_N_STEPS Steps between two checkpoints; 0 for none by",
    ),
    "predict --help all": ("--writer.suffix SUFFIX Added to each name, e.g. ``_x2``.",),
    "fit --model.help lightning_modules.Regression": (
        "--model.network NETWORK The network: a class whose first argument is the scale",
        "``l1``, or ``charbonnier``",
    ),
    "fit --data.train.help datamodules.Folder": (
        "Images of a folder and its subfolders",
        "The folder, or one image.",
    ),
    "fit --degradation.help degradations.Bicubic": ("--degradation.scale",),
}


@pytest.mark.parametrize("asked", ASKED)
def test_says(asked: str, enlarger: Callable[..., None]) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as stopped:
        enlarger(*asked.split())
    assert stopped.value.code == 0
    text = " ".join(out.getvalue().split())
    assert [part for part in ASKED[asked] if part not in text] == []


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
