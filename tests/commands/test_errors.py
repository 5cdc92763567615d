"""A mistake in flags or YAML gives one sentence: the key, the value and the fix."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commands.arguments.nested import refuse_nested_typos
from commands.errors import (
    CONFIGS,
    TOP,
    ConfigurationError,
    _parameters,
    did_you_mean,
    refuse_typos,
)
from commands.options import ROOMS, arguments, public_names
from tests.commands import plugins_with_bugs
from tests.conftest import REPO
from tests.quick import quick

Refusal = Callable[..., str]
Enlarger = Callable[..., None]
FIT = ("fit", "--config", "tiny.yaml")
PLUGINS = plugins_with_bugs.__name__
BENCHMARK = REPO / "configs/experiment/benchmark.yaml"
FOLDER = BENCHMARK.with_name("edsr_folder.yaml")

REAL = ("--degradation", "degradations.RealESRGAN")

# Words after FIT, and parts of the sentence.
FLAGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "a group": (("--modle", "x"), ("'modle'", "did you mean 'model'")),
    "a trainer's key": (
        ("--trainer.maxsteps", "3"),
        ("'trainer.maxsteps'", "did you mean 'trainer.max_steps'"),
    ),
    "a key of the run": (("--run.nme", "x"), ("'run.nme'", "did you mean 'run.name'")),
    "a checkpoint's key": (
        ("--checkpoint.every_n_step", "3"),
        ("'checkpoint.every_n_step'", "did you mean 'checkpoint.every_n_steps'"),
    ),
    "a seed set by hand to what it is": (
        ("--data.init_args.seed", "0", "--seed_everything", "5"),
        ("data.init_args.seed is set to 0", "set seed_everything instead (it is 5)"),
    ),
    "a seed that NumPy does not take": (
        ("--seed_everything", "-1"),
        ("seed_everything is -1; expected 0 to 4294967295",),
    ),
    "a number of checkpoints": (
        ("--checkpoint.keep_best", "-1"),
        ("checkpoint.keep_best is -1; it must be at least 0",),
    ),
    "a search for the size of a batch": (
        ("--trainer.callbacks+", "lightning.pytorch.callbacks.BatchSizeFinder"),
        ("trainer.callbacks has a BatchSizeFinder", "set data.init_args.batch_size"),
    ),
    "a gradient that leads uphill": (
        ("--trainer.accumulate_grad_batches", "-1"),
        ("trainer.accumulate_grad_batches is -1", "above 0"),
    ),
    "no training batch": (
        ("--trainer.limit_train_batches", "0"),
        ("trainer.limit_train_batches is 0: it must be above 0",),
    ),
    "gradients that would not be clipped": (
        ("--trainer.gradient_clip_val", "-1"),
        ("trainer.gradient_clip_val is -1: it must be at least 0",),
    ),
    "a validation each zeroth batch": (
        ("--trainer.val_check_interval", "0"),
        ("trainer.val_check_interval is 0", "--trainer.limit_val_batches 0 turns"),
    ),
    "a validation each zeroth epoch": (
        ("--trainer.check_val_every_n_epoch", "0"),
        ("trainer.check_val_every_n_epoch is 0", "--trainer.limit_val_batches 0 turns"),
    ),
    "devices as of GPUs": (("--trainer.devices", "0,1"), ("`devices`", "CPU")),
    "no devices": (("--trainer.devices", ""), ("`devices`", "CPU")),
    "early stopping on nothing": (
        (
            *("--trainer.callbacks+", "lightning.pytorch.callbacks.EarlyStopping"),
            *("--trainer.callbacks.monitor", "val/psrn"),
        ),
        ("Early stopping conditioned on metric `val/psrn`", "val/psnr"),
    ),
    "processes that are given the run": (
        ("--trainer.strategy", "ddp_spawn", "--trainer.devices", "2"),
        ("trainer.strategy is 'ddp_spawn'", "set it to ddp"),
    ),
    "a degradation in the data": (
        ("--data.init_args.degradation", "degradations.Bicubic"),
        ("data.init_args.degradation is filled in", "top-level key degradation"),
    ),
    "the short name of a key": (("--seed", "3"), ("'seed'", "did you mean 'seed_everything'")),
    "nothing is near": (("--xyzzy", "3"), ("unknown key 'xyzzy'",)),
    "an argument of the model": (
        ("--model.init_args.netwrk", "x"),
        ("'model.init_args.netwrk'", "lightning_modules.Regression", "'network'"),
    ),
    "null for a class": (
        ("--model.init_args.optimizer", "null"),
        ("model.init_args.optimizer is null; expected the path of a class: leave it out",),
    ),
    "an argument of the network": (
        ("--model.init_args.network.init_args.chanels", "3"),
        ("'model.init_args.network.init_args.chanels'", "EDSR", "did you mean 'channels'"),
    ),
    "an argument of the optimiser": (
        ("--model.init_args.optimizer", "torch.optim.Adam", "--model.init_args.optimizer.lrr", "3"),
        ("'model.init_args.optimizer.init_args.lrr'", "did you mean 'lr'"),
    ),
    "an argument of the data": (
        ("--data.init_args.crp_size", "3"),
        ("'data.init_args.crp_size'", "did you mean 'crop_size'"),
    ),
    "an argument of a source": (
        ("--data.init_args.train.init_args.rot", "3"),
        ("'data.init_args.train.init_args.rot'", "Folder", "did you mean 'root'"),
    ),
    "an argument of a callback": (
        ("--trainer.callbacks+", "callbacks.PSNR", "--trainer.callbacks.bordr", "3"),
        ("'trainer.callbacks.init_args.bordr'", "did you mean 'border'"),
    ),
    "an argument that is like no other": (
        ("--degradation.init_args.xyzzy", "3"),
        ("'degradation.init_args.xyzzy'", "it takes: scale, quantize"),
    ),
    "a key of an argument that is a dataclass": (
        (*REAL, "--degradation.init_args.first.gaussian_sgma", "[1, 5]"),
        (
            "'degradation.init_args.first.gaussian_sgma'",
            "degradation.init_args.first has no argument",
            "did you mean 'gaussian_sigma'",
        ),
    ),
    "one in braces": (
        (*REAL, "--degradation.init_args.first", "{gaussian_sgma: [1, 5]}"),
        ("'degradation.init_args.first.gaussian_sgma'", "did you mean 'gaussian_sigma'"),
    ),
    "a key below a number": (
        (*REAL, "--degradation.init_args.second_p.x", "1"),
        ("'degradation.init_args.second_p.x'", "second_p has no keys; expected float"),
    ),
    "no rate of learning": (
        ("--model.init_args.optimizer", "torch.optim.Adam", "--model.init_args.optimizer.lr", "x"),
        ("lr is x; expected float or the path of a class",),
    ),
    "an experiment by its name": (
        ("--config", "edsr_folder"),
        ("no such file; did you mean", "configs/experiment/edsr_folder.yaml?"),
    ),
    "an experiment by its name alone": (
        ("edsr_folder",),
        ("'edsr_folder' is not an option", "configs/experiment/edsr_folder.yaml"),
    ),
    "a pattern that the shell has replaced": (
        ("--data.init_args.predict", "a.png", "b.JPG"),
        ("'b.JPG' is not an option", "in quotation marks, 'photos/*.jpg'"),
    ),
    "a word too many": (("tiny.yaml",), ("'tiny.yaml' is not an option", "--config tiny.yaml")),
    "a class": (
        ("--model", "lightning_modules.one_pass.regression.Regresion"),
        ("model:", "'Regresion'", "did you mean 'Regression'"),
    ),
    "a file": (
        ("--model", "lightning_modules.regresion.Regression"),
        ("model:", "'regresion'", "did you mean 'lightning_modules.Regression'"),
    ),
    "a path of an earlier version": (
        ("--trainer.callbacks+=callbacks.psnr.PSNR",),
        ("trainer.callbacks:", "'psnr'", "did you mean 'callbacks.PSNR'"),
    ),
    "a folder": (
        ("--model", "lightning_moduls.regression.Regression"),
        ("model:", "'lightning_moduls'", "folder.file.Class", "working directory"),
    ),
    "a class without its file": (
        ("--model", "NoSuchClass"),
        ("model:", "'NoSuchClass' is not a class", "folder.file.Class"),
    ),
    "a folder of images as the source": (
        ("--data.init_args.train", "/tmp"),
        ("'/tmp' is a path, not a class: give it as --data.train.root /tmp, or as '{class_path",),
    ),
    "a class of another kind": (
        ("--model", "lightning_modules.EDSR"),
        ("model is lightning_modules.EDSR", "which is not a subclass of ImageModel"),
    ),
    "a callback": (
        ("--trainer.callbacks+", "callbacks.metrics.pixels.PSNRR"),
        ("trainer.callbacks:", "'PSNRR'", "did you mean 'PSNR'"),
    ),
    "a network": (
        ("--model.init_args.network", "lightning_modules.networks.edsr.EDSRR"),
        ("model.init_args.network:", "'EDSRR'", "did you mean 'EDSR'"),
    ),
    "a method that lacks its other half": (
        ("--model", f"{PLUGINS}.NoRestore"),
        (f"model needs a class, and {PLUGINS}.NoRestore is abstract (it lacks restore): name",),
    ),
    "a required argument of a network": (
        ("--model.init_args.network", f"{PLUGINS}.NeedsBody"),
        (f"missing model.init_args.network.init_args.body ({PLUGINS}.NeedsBody needs it)",),
    ),
    "a required argument of a schedule": (
        ("--model.init_args.lr_scheduler", "torch.optim.lr_scheduler.CosineAnnealingLR"),
        (
            "missing model.init_args.lr_scheduler.init_args.T_max (torch.optim.lr_scheduler."
            "CosineAnnealingLR needs it)",
        ),
    ),
    "the scale of a network": (
        ("--model.init_args.network.init_args.scale", "4"),
        ("'model.init_args.network.init_args.scale'", "'scale', is filled in", "data.init_args"),
    ),
    "no number": (
        ("--data.init_args.crop_size", "abc"),
        ("data.init_args.crop_size is abc; expected int",),
    ),
    "no number, deep within": (
        ("--model.init_args.network.init_args.blocks", "many"),
        ("model.init_args.network.init_args.blocks is many; expected int",),
    ),
    "a number that is empty": (
        ("--data.init_args.batch_size=",),
        ("data.init_args.batch_size is empty; expected int",),
    ),
    "one deep within": (
        ("--model.init_args.network.init_args.blocks=",),
        ("model.init_args.network.init_args.blocks is empty; expected int",),
    ),
    "a choice that is empty": (
        ("--trainer.precision=",),
        ("trainer.precision is empty; expected",),
    ),
    "a class that is empty": (
        ("--degradation=",),
        ("degradation is empty; expected the path of a class",),
    ),
    "no seed": (("--seed_everything", "true"), ("seed_everything is True; expected int",)),
    "none of the choices": (
        ("--model.init_args.loss", "l2"),
        ("model.init_args.loss is l2; expected 'l1', 'charbonnier'",),
    ),
    "none of two kinds of choices": (
        ("--trainer.precision", "17"),
        ("trainer.precision is 17; expected 64, 32, 16 or", "'bf16-mixed'"),
    ),
    "a dict is needed": (
        ("--data.init_args.val", "[a]"),
        ("data.init_args.val is ['a']; expected dict",),
    ),
    "a value is missing": (("--config",), ("--config", "expected one argument")),
    "a file of a group": (
        ("--run", "x"),
        ("run is 'x'", "no such file", "run.root", "run.name"),
    ),
    "another configuration file": (
        ("--config", "tinny.yml"),
        ("tinny.yml", "no such file", "did you mean 'tiny.yaml'"),
    ),
    "a root directory": (
        ("--trainer.default_root_dir", "x"),
        ("trainer.default_root_dir", "set run.root and run.name instead"),
    ),
    "an accelerator that is not there": (("--trainer.accelerator", "tpu"), ("torch_xla",)),
    "an accelerator that does not exist": (
        ("--trainer.accelerator", "gpuu"),
        ("accelerator='gpuu'", "Available names are"),
    ),
    "a validation beyond the epoch": (
        ("--trainer.val_check_interval", "50"),
        ("`val_check_interval` (50)", "number of the training batches (5)"),
    ),
    "the scale of the model": (
        ("--model.init_args.scale", "3"),
        ("model.init_args.scale is set to 3", "set data.init_args.scale instead (it is 2.0)"),
    ),
    "the scale of the degradation": (
        ("--degradation.init_args.scale", "3"),
        ("degradation.init_args.scale is set to 3", "set data.init_args.scale instead"),
    ),
    "the seed of the data": (
        ("--data.init_args.seed", "3"),
        ("data.init_args.seed is set to 3", "set seed_everything instead (it is 0)"),
    ),
    "a value that the class refuses": (
        ("--checkpoint.keep_last", "0"),
        ("checkpoint.keep_last is 0; it must be at least 1",),
    ),
    "a value that a class deep within refuses": (
        (
            "--data.init_args.train",
            "{class_path: datamodules.Photos, init_args: {names: [coffe]}}",
        ),
        ("'coffe'", "did you mean 'coffee'"),
    ),
}


# Left to slow tests: a second case of the same sentence.
SIBLINGS = {"a trainer's key", "a key of the run", "a checkpoint's key", "no devices", "a network"}
SIBLINGS |= {"a validation each zeroth epoch", "an argument of the data", "an argument of a source"}
SIBLINGS |= {"an argument of a callback", "one in braces", "a callback", "one deep within"}
SIBLINGS |= {"a required argument of a network", "no number, deep within", "a choice that is empty"}
SIBLINGS |= {"the scale of the degradation", "none of two kinds of choices"}
assert FLAGS.keys() > SIBLINGS


@pytest.mark.parametrize("case", quick(FLAGS, *(FLAGS.keys() - SIBLINGS)))
def test_flags(tiny: Path, refusal: Refusal, case: str) -> None:
    typed, expected = FLAGS[case]
    sentence = refusal(*FIT, *typed)
    assert [part for part in expected if part not in sentence] == [], sentence
    assert "\n" not in sentence


# Content of a second file, and parts of the sentence.
YAML: dict[str, tuple[str, tuple[str, ...]]] = {
    "a group": ("modle: {a: 1}", ("'modle.a'", "did you mean 'model'")),
    "a group without a value": ("modle:", ("unknown key 'modle'", "did you mean 'model'")),
    "a key of the trainer": (
        "trainer: {max_stepz: 2}",
        ("'trainer.max_stepz'", "did you mean 'trainer.max_steps'"),
    ),
    "an argument of the data": (
        "data: {class_path: datamodules.SRDataModule, init_args: {scal: 2}}",
        ("'data.init_args.scal'", "did you mean 'scale'"),
    ),
    "an argument of the network": (
        "model: {init_args: {network: {class_path: lightning_modules.EDSR, "
        "init_args: {blcks: 2}}}}",
        ("'model.init_args.network.init_args.blcks'", "did you mean 'blocks'"),
    ),
    "an argument of a source": (
        "data: {init_args: {val: {a: {class_path: datamodules.Folder, init_args: {rot: x}}}}}",
        ("data.init_args.val.init_args.rot'", "Folder has no", "did you mean 'root'"),
    ),
    "an argument of a stage": (
        "degradation: {class_path: degradations.Pipeline, init_args: {stages: "
        "[{class_path: degradations.GaussianNoise, init_args: {sigm: [1, 2]}}]}}",
        ("'degradation.init_args.stages.init_args.sigm'", "did you mean 'sigma'"),
    ),
    "a key of an argument that is a dataclass": (
        "degradation: {class_path: degradations.RealESRGAN, init_args: {first: "
        "{gaussian_sgma: [1, 5]}}}",
        ("'degradation.init_args.first.gaussian_sgma'", "did you mean 'gaussian_sigma'"),
    ),
    "an argument of a callback": (
        "trainer: {callbacks: [{class_path: callbacks.PSNR, init_args: {bordr: 3}}]}",
        ("'trainer.callbacks.init_args.bordr'", "did you mean 'border'"),
    ),
    "class_path": (
        "model: {clas_path: lightning_modules.Bicubic}",
        ("model takes class_path and init_args", "'clas_path'"),
    ),
    "init_args": (
        "model: {class_path: lightning_modules.Bicubic, init_arg: {}}",
        ("model takes class_path and init_args", "'init_arg'"),
    ),
    "a class of a source": (
        "data: {init_args: {val: {a: {class_path: datamodules.sources.folder.Foldr}}}}",
        ("data.init_args.val:", "'Foldr'", "did you mean 'Folder'"),
    ),
    "a transform of albumentations": (
        "data: {init_args: {crops: {augment: {class_path: datamodules.Albumentations, "
        "init_args: {transforms: [{class_path: albumentations.HueSaturationValu}]}}}}}",
        ("data.init_args.crops.augment.init_args.transforms:", "did you mean 'HueSaturationValue'"),
    ),
    "a number of another kind": (
        "trainer: {max_steps: 3.5}",
        ("trainer.max_steps is 3.5; expected int",),
    ),
    "a missing argument": (
        "degradation: {class_path: degradations.Pipeline}",
        ("missing degradation.init_args.stages", "degradations.Pipeline needs it"),
    ),
    "a file that is not there": (
        "data: ../data/nope.yaml",
        ("data names the file '../data/nope.yaml'", "relative to the file that holds it"),
    ),
    "the scale of the model": (
        "model: {class_path: lightning_modules.Bicubic, init_args: {scale: 3}}",
        ("model.init_args.scale is set to 3", "set data.init_args.scale instead"),
    ),
    "the scale of the degradation": (
        "degradation: {init_args: {scale: 3}}",
        ("degradation.init_args.scale is set to 3", "set data.init_args.scale instead"),
    ),
    "a duplicate key": (
        "data: {init_args: {batch_size: 2}}\ntrainer: {max_steps: 3}\n"
        "data: {init_args: {crop_size: 20}}",
        ("duplicate key 'data', first in line 1", "line 3"),
    ),
    "a duplicate key within a list": (
        "trainer:\n  callbacks:\n  - class_path: callbacks.PSNR\n"
        "    init_args: {border: 2, color: y, border: 3}",
        ("duplicate key 'border'", "line 4"),
    ),
    "one that contains itself": (
        "trainer: {max_steps: 3}\ndata: &own {init_args: *own}",
        ("this anchor (&) contains itself by an alias (*)", "line 2"),
    ),
    "null for a number": (
        "data: {init_args: {batch_size: null}}",
        ("data.init_args.batch_size is null; expected int: leave it out, or give a value",),
    ),
    "null in a list of classes": (
        "trainer:\n  callbacks:\n  - {class_path: callbacks.PSNR, init_args: {border: null}}",
        ("trainer.callbacks.init_args.border is null; expected int or 'scale', 'scale+6':",),
    ),
    "null in a network": (
        "model: {init_args: {network: {init_args: {channels: null}}}}",
        ("model.init_args.network.init_args.channels is null; expected int:",),
    ),
    "a bracket": ("a: [b\n c: d", ("Problems parsing config", "line 2")),
    "a tab": ("trainer:\n\tmax_steps: 3", ('in "', 'more.yaml", line 2', "a tab?")),
    "a list": ("- a\n- b", ("a configuration file must hold keys",)),
    "nothing": ("# nothing", ("a configuration file sets nothing",)),
    "a range that is reversed": (
        "degradation: {class_path: degradations.Pipeline, init_args: {stages: "
        "[{class_path: degradations.GaussianNoise, init_args: {sigma: [3, 2]}}]}}",
        ("sigma is [3.0, 2.0], which is reversed",),
    ),
}


@pytest.mark.parametrize("case", YAML)
def test_yaml(tiny: Path, refusal: Refusal, case: str) -> None:
    content, expected = YAML[case]
    Path("more.yaml").write_text(f"{content}\n")
    sentence = refusal(*FIT, "--config", "more.yaml")
    assert [part for part in expected if part not in sentence] == [], sentence
    assert "it is None" not in sentence


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ((), ("name a command first: fit, validate, test, predict",)),
        (("fti",), ("unknown command 'fti'", "did you mean 'fit'")),
        (("fit",), ("missing data, model", "--config configs/experiment/NAME.yaml")),
        (
            ("test", "--config", str(BENCHMARK)),
            ("missing model, which no --config sets: add --model configs/model/NAME.yaml",),
        ),
        (("export",), ("missing data, model: name a run, export runs/NAME, or an experiment",)),
        (
            ("fit", "--data.init_args.train.init_args.root", "x"),
            ("data.init_args.train needs a class", "--config configs/experiment/NAME.yaml"),
        ),
    ],
)
def test_the_command(refusal: Refusal, typed: tuple[str, ...], expected: tuple[str, ...]) -> None:
    sentence = refusal(*typed)
    assert [part for part in expected if part not in sentence] == [], sentence


# With abbreviations, each would mean the full key.
@pytest.mark.parametrize(
    "typed",
    [
        "--trainer.max_step",
        "--conf",
        "--data.init_args.crop_siz",
        "--degradation.init_args.first.gaussian_sigm",
    ],
)
def test_no_abbreviations(tiny: Path, refusal: Refusal, typed: str) -> None:
    value = "[1, 5]" if typed.endswith("sigm") else "3"
    assert f"{typed.removeprefix('--')}'" in refusal(*FIT, *REAL, typed, value)


def test_one_file_serves_all_commands(trained: Path, enlarger: Enlarger) -> None:
    Path("more.yaml").write_text("checkpoint: {every_n_steps: 5}\nwriter: {suffix: _x2}\n")
    for command in ("fit", "test"):
        enlarger(command, "--config", "tiny.yaml", "--config", "more.yaml")


def test_a_scale_by_default_is_not_set_by_hand(trained: Path, enlarger: Enlarger) -> None:
    model = f"{PLUGINS}.DefaultScale"
    enlarger("test", "--config", "tiny.yaml", "--run.name", "x", "--model", model)
    assert plugins_with_bugs.DefaultScale.built_for == 2


def test_debug_gives_the_traceback(
    tiny: Path, enlarger: Enlarger, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Exception, match="crop_size is 15") as raised:
        enlarger("--debug", *FIT, "--data.init_args.crop_size", 15)
    assert not isinstance(raised.value, SystemExit)
    assert "error:" not in capsys.readouterr().err


# ------------------------------------------------------------------------ the user's own code


def test_a_file_of_ones_own_that_imports_what_is_not_there(tiny: Path, refusal: Refusal) -> None:
    Path("importing.py").write_text("import torhc\n")
    sentence = refusal(*FIT, "--model.init_args.network", "importing.Network")
    assert "importing.Network cannot be imported, because its file imports 'torhc'" in sentence


def test_a_network_that_takes_no_scale(tiny: Path, refusal: Refusal) -> None:
    sentence = refusal(*FIT, "--model.init_args.network", f"{PLUGINS}.NoScale")
    assert "NoScale.__init__() takes 1 positional argument but 2 were given" in sentence
    assert "first argument of a network is the scale: def __init__(self, scale" in sentence


def source(mistake: str) -> tuple[str, ...]:
    text = f"{{class_path: {PLUGINS}.Mistaken, init_args: {{mistake: {mistake}}}}}"
    return ("--data.init_args.train", text, "--data.init_args.val", "null")


@pytest.mark.parametrize(
    ("mistake", "workers"),
    [
        *((mistake, 0) for mistake in ("raise", "raise in one line", "raise several lines")),
        ("raise several lines", 2),
    ],
)
def test_what_a_plugin_refuses_is_a_sentence(
    tiny: Path, refusal: Refusal, workers: int, mistake: str
) -> None:
    sentence = refusal(*FIT, *source(mistake), "--data.init_args.workers", workers)
    assert sentence == plugins_with_bugs.MESSAGES[mistake]


@pytest.mark.parametrize("mistake", ["raise in the constructor", "raise in prepare"])
def test_what_a_plugin_refuses_at_start_is_a_sentence(
    tiny: Path, refusal: Refusal, mistake: str
) -> None:
    assert refusal(*FIT, *source(mistake)) == plugins_with_bugs.MESSAGES[mistake]


@pytest.mark.parametrize(
    ("mistake", "workers"),
    [
        ("int", 0),
        ("zero", 2),
        ("int in the constructor", 0),
        ("attribute in the constructor", 0),
    ],
)
def test_a_bug_keeps_its_traceback(
    tiny: Path, enlarger: Enlarger, mistake: str, workers: int
) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011  (of whatever type it is)
        enlarger(*FIT, *source(mistake), "--data.init_args.workers", workers)
    assert not isinstance(raised.value, SystemExit)
    shown = "".join(_chain(raised.value))
    assert "plugins_with_bugs.py" in shown
    assert plugins_with_bugs.MESSAGES[mistake] in shown


def _chain(error: BaseException | None) -> Iterator[str]:
    import traceback

    while error is not None:
        yield "".join(traceback.format_exception(error, chain=False))
        error = error.__cause__


def test_a_wrong_use_of_lightning_keeps_its_traceback(tiny: Path, enlarger: Enlarger) -> None:
    """An error of Lightning is a sentence only if the configuration caused it."""
    with pytest.raises(Exception, match=r"self\.log") as raised:
        enlarger(*FIT, "--trainer.callbacks+", f"{PLUGINS}.LogsWhereItMayNot")
    assert not isinstance(raised.value, SystemExit)


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("trainer.max_step", "trainer.max_steps"),
        ("max_stpes", "trainer.max_steps"),  # differs in the long part before it
        ("seed", "seed_everything"),
        ("optimizer", ""),
    ],
)
def test_did_you_mean(word: str, near: str) -> None:
    choices = ["trainer.max_steps", "trainer.logger", "seed_everything", "trainer"]
    assert did_you_mean(word, choices) == (f"; did you mean {near!r}?" if near else "")


# ------------------------------------------------------------------------- before torch is imported


# What is typed, and a part of the sentence.
TYPOS = dict(
    [
        ("fti", "unknown command 'fti'; did you mean 'fit'?"),
        ("fit --trainr.max_steps 3", "unknown key 'trainr.max_steps'; did you mean 'trainer.max"),
        (
            "fit --trainer.max_stepz 3",
            "did you mean 'trainer.max_steps'?",
        ),
        ("test --run.nam=x", "unknown key 'run.nam'; did you mean 'run.name'?"),
        ("fit --trainer.lr 3", "did you mean 'model.init_args.optimizer.init_args.lr'?"),
        ("predict --tiling.sise 3", "did you mean 'tiling.size'?"),
        ("fit --confg=a.yaml", "unknown key 'confg'; did you mean 'config'?"),
        ("fit --config gone.yaml", "gone.yaml, and there is no such file"),
        ("fit --config=gone.yaml", "gone.yaml, and there is no such file"),
        ("fit", "missing data, model: name an experiment"),
        ("fit --model lightning_modules.EDRS", "did you mean 'lightning_modules.EDSR'?"),
        (f"predict --config {BENCHMARK} --data.predict dosc", "'dosc', which does not exist; did"),
        (f"fit --config={FOLDER} --data.init_args.train.init_args.root=dosc", "mean 'docs'?"),
        (f"fit --config {FOLDER} --model.network.chanels 32", "did you mean 'channels'?"),
        (f"fit --config {FOLDER} --data.val.photos.nams x", "did you mean 'names'?"),
        (f"fit --config={FOLDER} --data.scale=abc", "data.init_args.scale is abc; expected float"),
        ("report", "report needs a run, such as runs/NAME"),
        ("compare docs@bicubic dosc", "compare is 'dosc', which does not exist; did you mean"),
    ]
)


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[int, str, list[str]]]:
    """Status and text of each of `TYPOS`, from one process, and what it had imported by then."""
    code = f"""
import contextlib, io, json, sys, main
answers = {{}}
for typed in {[*TYPOS]!r}:
    with contextlib.redirect_stderr(io.StringIO()) as text:
        try:
            main.main(typed.split())
        except SystemExit as stopped:
            imported = [name for name in ("torch", "lightning") if name in sys.modules]
            answers[typed] = stopped.code, text.getvalue(), imported
json.dump(answers, sys.stdout)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    found: dict[str, tuple[int, str, list[str]]] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("typed", TYPOS)
def test_a_typo_is_answered_without_torch(
    answers: dict[str, tuple[int, str, list[str]]], typed: str
) -> None:
    status, text, imported = answers[typed]
    assert (status, imported) == (2, [])
    assert TYPOS[typed] in text


@pytest.mark.parametrize(
    "typed",
    [
        *("--help", "fit --config {a: 1}", "fit --config $HOME/a.yaml", "fit --lr 1"),
        *(
            "fit --gpus 2",
            "predict --data.predict *.gone",
            "predict --data.predict [docs,README.md]",
        ),
        "fit --config tests/tiny.yaml --data.train.root gone",  # a user's source may make it
        "fit --data.train datamodules.Torchvision --data.train.root gone",
        "predict --data.predict datamodules.Seeds --data.predict.count 8",
    ],
)
def test_what_the_parser_judges_better(typed: str) -> None:
    refuse_typos(typed.split())


PARTS = [
    *((path, f"--{path.parent.name}") for name in ("model", "data", "degradation", "trainer")
      for path in sorted((CONFIGS / name).glob("*.yaml"))),
    *((path, "--trainer.callbacks") for path in sorted((CONFIGS / "callbacks").glob("*.yaml"))),
    *((path, "--trainer.logger") for path in sorted((CONFIGS / "logger").glob("*.yaml"))),
]  # fmt: skip


@pytest.mark.parametrize(("path", "key"), PARTS, ids=lambda value: getattr(value, "name", value))
def test_the_file_of_one_key_is_no_configuration(path: Path, key: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{key} {re.escape(str(path))}"):
        refuse_typos(["fit", "--config", str(path)])


@pytest.mark.parametrize("text", ["class_path: mine.Net\n", "# mine\n- class_path: mine.Net\n"])
def test_the_users_file_of_one_class_is_no_configuration(tmp_path: Path, text: str) -> None:
    (path := tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match="--model"):
        refuse_typos(["fit", f"--config={path}"])


def test_without_a_model_the_model_is_missing(refusal: Refusal, tmp_path: Path) -> None:
    assert refusal("predict", "--data.predict", tmp_path).startswith("missing model")


@pytest.mark.parametrize(
    "typed",
    [
        "predict --data.predict a.png --data.predict b.png",
        "predict --data.predict=a.png --data.init_args.predict=b.png",
        "predict --data.predict+ a.png --data.predict b.png",
        "fit --data.train datamodules.Shards --data.train.urls a.tar --data.train.urls b.tar",
        "fit --data.train datamodules.Folder --data.train.files [a] --data.train.files [b]",
    ],
)
def test_a_list_typed_twice_is_refused(typed: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is typed twice, and the second value"):
        refuse_nested_typos(typed.split())


@pytest.mark.parametrize(
    "typed",
    [
        "predict --data.predict a.png --data.predict+ b.png",
        "fit --data.crop_size 8 --data.crop_size 16",
        "fit --data.train datamodules.Shards --data.train.urls a.tar --data.val.a.urls b.tar",
    ],
)
def test_what_may_be_typed_twice(typed: str) -> None:
    refuse_nested_typos(typed.split())


@pytest.mark.parametrize(
    "typed",
    [
        "--model.init_args.network.init_args.chanels 32",
        "--model.network lightning_modules.IMDN --model.network.chanels 3",
        "--model.lr 3",
        "--data.train.rot x",
        "--data.crop_size big",
        "--degradation degradations.RealESRGAN --degradation.jpg 3",
    ],
)
def test_the_parser_would_have_said_it(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    from commands.cli import run

    words = ["fit", "--config", str(FOLDER), *typed.split()]
    with pytest.raises(ConfigurationError) as early:
        refuse_nested_typos(words)
    with pytest.raises(SystemExit):
        run(words)
    assert capsys.readouterr().err.strip() == f"error: {early.value}"


@pytest.mark.parametrize(
    "typed",
    [
        "--model.optimizer.no_such 3",
        "--model.network torch.nn.Identity --model.network.no_such 3",
        "--model my.Method --model.no_such 3",
        "--config {model: my.Method} --model.no_such 3",
        "--data.train datamodules.Photos --data.train.names null",
        "--trainer.callbacks.no_such 3",
        "--model.network.scale 3",
        "--data.size none",
    ],
)
def test_what_the_sources_do_not_tell_is_left_to_the_parser(typed: str) -> None:
    refuse_nested_typos(["fit", "--config", str(FOLDER), *typed.split()])


def test_no_argument_that_a_class_takes_is_refused() -> None:
    known = 0
    for name in [name for room in ROOMS for name in public_names(room)]:
        found = arguments(name)
        assert found is None or found.keys() >= {*_parameters(name)}, name
        known += found is not None
    assert known > 150


@pytest.mark.parametrize("command", ["fit", "test", "predict", "encode"])
def test_all_options_are_known(tiny: Path, configured: Callable[..., Any], command: str) -> None:
    assert vars(configured(command, "--config", "tiny.yaml")).keys() <= {*TOP}
