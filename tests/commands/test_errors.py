"""A mistake in flags or YAML gives one sentence: the key, the value and the fix."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from commands.arguments.early import TOP
from tests.commands import plugins_with_bugs
from tests.conftest import REPO

Refusal = Callable[..., str]
Enlarger = Callable[..., None]
FIT = ("fit", "--config", "tiny.yaml")
PLUGINS = plugins_with_bugs.__name__
BENCHMARK = REPO / "configs/experiment/benchmark.yaml"
FOLDER = BENCHMARK.with_name("edsr_folder.yaml")
LIGHTNING = "lightning.pytorch.callbacks"
REAL = "--degradation degradations.RealESRGAN"
CALLBACK = "--trainer.callbacks+ callbacks.PSNR --trainer.callbacks"

# What is typed after FIT, and words of the sentence.
FLAGS = [
    # unknown keys
    ("--modle x", "'modle'; did you mean 'model'?"),
    ("--model.network.chanels 3", "'model.network.chanels'", "'model.network.channels'?"),
    ("--model.optimizer.lr 3", "model.optimizer takes class_path and init_args"),
    ("--data.train.rot 3", "'data.train.root'?"),
    (f"{CALLBACK}.bordr 3", "'trainer.callbacks.border'?"),
    (f"{REAL} --degradation.first.gaussian_sgma [1,5]", "'degradation.first.gaussian_sigma'?"),
    # what is missing
    ("--model.network PLUGINS.NeedsBody", "missing model.network.body", "NeedsBody needs it"),
    (
        "--model.lr_scheduler torch.optim.lr_scheduler.CosineAnnealingLR",
        "missing model.lr_scheduler.T_max",
    ),
    # wrong values
    ("--data.crop_size abc", "data.crop_size is abc; expected an integer above 0"),
    ("--trainer.precision 17", "is 17; expected 64, 32, 16 or", "'bf16-mixed'"),
    ("--model.optimizer null", "model.optimizer is null; expected the path of a class"),
    # classes
    ("--model lightning_modules.methods.regression.Regresion", "'lightning_modules.Regression'?"),
    ("--trainer.callbacks+=callbacks.psnr.PSNR", "trainer.callbacks is", "'callbacks.PSNR'?"),
    ("--model lightning_moduls.regression.Regression", "No module named 'lightning_moduls'"),
    ("--model lightning_modules.EDSR", "EDSR", "subclass of ImageModel"),
    ("--model PLUGINS.NoRestore", "NoRestore", "is abstract"),
    ("--model.network PLUGINS.NoScale", "positional argument", "def __init__(self, scale"),
    # files and words
    ("--config resshift", "resshift_journal.yaml", "resshift_v2.yaml"),
    ("--data.predict tiny.yaml b.JPG", "'b.JPG' is not an option", "in quotation marks"),
    ("--run x", "run is x: it takes keys below it"),
    # what follows from another key, and what Lightning would do wrong or refuses
    ("--data.seed 0 --seed_everything 5", "data.seed is set to 0", "seed_everything instead"),
    ("--model.scale 3", "model.scale is set to 3", "set data.scale instead (it is 2)"),
    ("--data.degradation degradations.Bicubic", "from the key degradation"),
    ("--trainer.default_root_dir x", "set run.root and run.name instead"),
    (f"--trainer.callbacks+ {LIGHTNING}.BatchSizeFinder", "BatchSizeFinder", "data.batch_size"),
    ("--trainer.accumulate_grad_batches -1", "accumulate_grad_batches is -1", "above 0"),
    ("--trainer.val_check_interval 0", "limit_val_batches 0 turns"),
    ("--trainer.strategy ddp_spawn --trainer.devices 2", "'ddp_spawn'", "set it to ddp"),
    (
        f"--trainer.callbacks+ {LIGHTNING}.EarlyStopping --trainer.callbacks.monitor val/psrn",
        "val/psrn",
    ),
]


@pytest.mark.parametrize(("typed", "words"), [(typed, words) for typed, *words in FLAGS])
def test_flags(tiny: Path, refusal: Refusal, typed: str, words: list[str]) -> None:
    sentence = refusal(*FIT, *shlex.split(typed.replace("PLUGINS", PLUGINS)))
    assert [word for word in words if word not in sentence] == [], sentence
    assert "\n" not in sentence


EDSR = "model: {init_args: {network: {class_path: lightning_modules.EDSR, init_args: "
NOISE = "degradation: {class_path: degradations.Pipeline, init_args: {stages: [{class_path: "
NOISE += "degradations.GaussianNoise, init_args: "
NAMED = NOISE.replace("[{", "{a: {")
STAGE_OWN = (
    "degradation: {class_path: degradations.Pipeline, init_args: {stages: {own: {class_path: "
)
STAGE_OWN += "degradations.%s}}}}"
LEVELS = [f"{below}: &{below} [{f'*{above}, ' * 9}]" for above, below in pairwise("abcdefghi")]
BOMB = "\n".join(LEVELS)
# Content of a second file, and words of the sentence.
YAML = [
    (f"{EDSR}{{blcks: 2}}}}}}}}", "'model.network.blocks'?"),
    (f"{EDSR}{{channels: null}}}}}}}}", "model.network.channels is null; expected an integer"),
    (
        "data: {init_args: {val: {a: {class_path: datamodules.Folder, init_args: {rot: x}}}}}",
        "'data.val.a.root'?",
    ),
    (f"{NOISE}{{sigm: [1, 2]}}}}]}}}}", "'degradation.stages.sigma'?"),
    (f"{NAMED}{{sigm: [1, 2]}}}}}}}}}}", "'degradation.stages.a.sigma'?"),
    (f"{NOISE}{{sigma: [3, 2]}}}}]}}}}", "sigma is [3.0, 2.0]; expected 0 <= lower <= upper"),
    (
        "model: {class_path: lightning_modules.Bicubic, init_arg: {}}",
        "model takes class_path and init_args",
    ),
    (
        "data: {init_args: {val: {a: {class_path: datamodules.sources.folder.Foldr}}}}",
        "data.val.a:",
        "did you mean 'datamodules.Folder'",
    ),
    ("run: {name: a}\ntrainer: {max_steps: 3}\nrun: {name: b}", "duplicate key 'run'", "line 3"),
    ("trainer: {max_steps: 3}\ndata: &own {init_args: *own}", "within its own anchor", "line 2"),
    ("a: &a [x, x, x, x, x, x, x, x]\n" + BOMB, "repeat more than", "line 6"),
    (f"a: {'[' * 200_000}", "more than 100 levels", "line 1"),
    (f"seed_everything: {'9' * 5_000}", "read as int", "line 1"),
    (STAGE_OWN % "GausianNoise", "did you mean 'degradations.GaussianNoise'"),
    (
        STAGE_OWN
        % "Albumentations, init_args: {transform: {class_path: albumentations.Perspective}}",
        "Perspective may move pixels",
    ),
    ("trainer:\n\tmax_steps: 3", 'more.yaml", line 2', "a tab?"),
    ("# nothing", "a configuration file must hold keys"),
    ("data:\n  init_args:\n  batch_size: 2\n", "data takes class_path and init_args"),
    ("trainer:\n#  max_steps: 3\nseed_everything: 3", "trainer is null: it takes keys below it"),
    ("run: [1]", "run is [1]: it takes keys below it"),
]


@pytest.mark.parametrize(("content", "words"), [(content, words) for content, *words in YAML])
def test_yaml(tiny: Path, refusal: Refusal, content: str, words: list[str]) -> None:
    Path("more.yaml").write_text(f"{content}\n")
    sentence = refusal(*FIT, "--config", "more.yaml")
    assert [word for word in words if word not in sentence] == [], sentence


def test_the_place_of_a_mistake(tiny: Path, refusal: Refusal) -> None:
    """Also in a file that another one names; what is typed later has none."""
    Path("parts").mkdir()
    network = "  network:\n    class_path: lightning_modules.EDSR\n    init_args:\n"
    model = f"class_path: lightning_modules.Regression\ninit_args:\n{network}      channels: x\n"
    Path("parts/model.yaml").write_text(model)
    Path("more.yaml").write_text("\ntrainer.max_steps: 3\nmodel: parts/model.yaml\n")
    more = (*FIT, "--config", "more.yaml")
    sentence = refusal(*more)
    assert sentence.startswith("parts/model.yaml, line 6: model.network.channels is x; expected an")
    assert refusal(*more, "--model.network.channels", "y").startswith("model.network.channels is y")


@pytest.mark.parametrize("key", ["model", "trainer", "trainer.callbacks", "config"])
@pytest.mark.parametrize(
    ("content", "word"), [(b"a: [b\nc: d\n", "line 2"), (b"# caf\xe9\na: 3\n", "not UTF-8")]
)
def test_a_file_that_cannot_be_read(
    tiny: Path, refusal: Refusal, key: str, content: bytes, word: str
) -> None:
    Path("broken.yaml").write_bytes(content)
    assert word in refusal(*FIT, f"--{key}", "broken.yaml")


# ------------------------------------------------------------------------ the user's own code


def test_a_file_of_ones_own_that_imports_what_is_not_there(tiny: Path, refusal: Refusal) -> None:
    Path("importing.py").write_text("import torhc\n")
    sentence = refusal(*FIT, "--model", "importing.Method")
    assert "importing.Method: No module named 'torhc'" in sentence


def test_nothing_is_set(tiny: Path, refusal: Refusal) -> None:
    assert "missing data, model: name an experiment" in refusal("fit")


def source(mistake: str) -> tuple[str, ...]:
    text = f"{{class_path: {PLUGINS}.Mistaken, init_args: {{mistake: {mistake}}}}}"
    return ("--data.init_args.train", text, "--data.init_args.val", "null")


@pytest.mark.parametrize(
    ("mistake", "workers"),
    [
        *(("raise in one line", 0), ("raise several lines", 2)),
        *(("raise in the constructor", 0), ("raise in prepare", 0)),
    ],
)
def test_what_a_plugin_refuses_is_a_sentence(
    tiny: Path, refusal: Refusal, workers: int, mistake: str
) -> None:
    sentence = refusal(*FIT, *source(mistake), "--data.init_args.workers", workers)
    assert sentence.startswith(f"{plugins_with_bugs.MESSAGES[mistake]} (ValueError of ")
    assert re.search(r"plugins_with_bugs\.py:\d+, in (read|__init__|prepare);", sentence)


@pytest.mark.parametrize(
    ("mistake", "workers"), [("int", 0), ("zero", 2), ("attribute in the constructor", 0)]
)
def test_a_bug_keeps_its_traceback(
    tiny: Path, enlarger: Enlarger, mistake: str, workers: int
) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011  (of whatever type it is)
        enlarger(*FIT, *source(mistake), "--data.init_args.workers", workers)
    assert not isinstance(raised.value, SystemExit)
    shown = "".join(traceback.format_exception(raised.value))
    assert "plugins_with_bugs.py" in shown
    assert plugins_with_bugs.MESSAGES[mistake] in shown


def test_a_wrong_use_of_lightning_keeps_its_traceback(tiny: Path, enlarger: Enlarger) -> None:
    """An error of Lightning is a sentence only if the configuration caused it."""
    with pytest.raises(Exception, match=r"self\.log") as raised:
        enlarger(*FIT, "--trainer.callbacks+", f"{PLUGINS}.LogsWhereItMayNot")
    assert not isinstance(raised.value, SystemExit)


# ------------------------------------------------------------------------- before torch is imported


# What is typed, and a part of the sentence.
TYPOS = {
    "": "name a command first: fit, validate",
    "prdict": "did you mean 'predict'?",
    "predict --wrong 1": "unknown key 'wrong'; it takes config,",
    "predict --scale 2": "did you mean 'data.scale'?",
    "fit --config CASE --trainer.max_stepz 3": "did you mean 'trainer.max_steps'?",
    "fit --config configs/model/imdn.yaml": "such as --model configs/model/imdn.yaml",
    "fit --model lightning_modules.EDRS": "did you mean 'lightning_modules.EDSR'?",
}


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[int, str, list[str]]]:
    """Status and text of each of `TYPOS`, from one process, and what it had imported by then."""
    code = f"""
import contextlib, io, json, sys, main
answers = {{}}
for typed in {[*TYPOS]!r}:
    with contextlib.redirect_stderr(io.StringIO()) as text:
        try:
            main.main(typed.replace("CASE", {str(FOLDER)!r}).split())
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


@pytest.mark.parametrize("command", ["fit", "test", "predict", "encode"])
def test_all_options_are_known(tiny: Path, configured: Callable[..., Any], command: str) -> None:
    assert vars(configured(command, "--config", "tiny.yaml")).keys() <= {*TOP}
