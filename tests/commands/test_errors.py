"""A mistake in flags or YAML gives the library's message, with the nearest key."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

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

# What is typed after FIT, and words of the message.
FLAGS = [
    # unknown keys
    ("--modle x", "--modle", "did you mean 'model'?"),
    ("--hlep", "--hlep", "did you mean 'help'?"),
    ("--model.network.chanels 3", "'chanels'", "did you mean 'channels'?"),
    ("--data.train.rot 3", "'rot'", "did you mean 'root'?"),
    (f"{CALLBACK}.bordr 3", "'bordr'", "did you mean 'border'?"),
    (f"{REAL} --degradation.first.gaussian_sgma [1,5]", "did you mean 'first.gaussian_sigma'?"),
    # what is missing
    ("--model.network PLUGINS.NeedsBody", "NeedsBody", "required: body"),
    ("--model.lr_scheduler torch.optim.lr_scheduler.CosineAnnealingLR", "required: T_max"),
    # wrong values
    ("--data.crop_size abc", '"crop_size"', "an integer above 0. Got value: abc"),
    ("--trainer.precision 17", '"trainer.precision"', "'bf16-mixed'"),
    # classes
    ("--trainer.callbacks+=callbacks.PSNRR", "'callbacks.PSNRR'"),
    ("--model lightning_moduls.regression.Regression", "No module named 'lightning_moduls'"),
    ("--model lightning_modules.EDSR", "EDSR", "subclass of ImageModel"),
    # what follows from another key, and what Lightning would do wrong or refuses
    ("--data.seed 0 --seed_everything 5", "--data.seed follows from seed_everything"),
    ("--model.scale 3", "--model.scale follows from data.scale"),
    ("--data.degradation degradations.Bicubic", "--data.degradation follows from degradation"),
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
    message = refusal(*FIT, *shlex.split(typed.replace("PLUGINS", PLUGINS)))
    assert [word for word in words if word not in message] == [], message


EDSR = "model: {init_args: {network: {class_path: lightning_modules.EDSR, init_args: "
NOISE = "degradation: {class_path: degradations.Pipeline, init_args: {stages: [{class_path: "
NOISE += "degradations.GaussianNoise, init_args: "
# Content of a second file, and words of the message.
YAML = [
    (f"{EDSR}{{blcks: 2}}}}}}}}", "'blcks'", "did you mean 'blocks'?"),
    (f"{NOISE}{{sigm: [1, 2]}}}}]}}}}", "'sigm'", "did you mean 'sigma'?"),
    (f"{NOISE}{{sigma: [3, 2]}}}}]}}}}", "sigma is [3.0, 2.0]; expected 0 <= lower <= upper"),
    ("trainer: {max_stepz: 3}", "max_stepz", "did you mean 'trainer.max_steps'?"),
    ("trainer:\n\tmax_steps: 3", "line 2"),
]


@pytest.mark.parametrize(("content", "words"), [(content, words) for content, *words in YAML])
def test_yaml(tiny: Path, refusal: Refusal, content: str, words: list[str]) -> None:
    Path("more.yaml").write_text(f"{content}\n")
    message = refusal(*FIT, "--config", "more.yaml")
    assert [word for word in words if word not in message] == [], message


# ------------------------------------------------------------------------ the user's own code


def test_a_file_of_ones_own_that_imports_what_is_not_there(tiny: Path, refusal: Refusal) -> None:
    Path("importing.py").write_text("import torhc\n")
    sentence = refusal(*FIT, "--model", "importing.Method")
    assert "No module named 'torhc'" in sentence


def test_nothing_is_set(tiny: Path, refusal: Refusal) -> None:
    assert "arguments are required: data, model" in refusal("fit")


def source(mistake: str) -> tuple[str, ...]:
    text = f"{{class_path: {PLUGINS}.Mistaken, init_args: {{mistake: {mistake}}}}}"
    return ("--data.init_args.train", text, "--data.init_args.val", "null")


@pytest.mark.parametrize(
    ("mistake", "workers"), [("raise", 0), ("zero", 2), ("attribute in the constructor", 0)]
)
def test_an_error_of_a_plugin_keeps_its_traceback(
    tiny: Path, enlarger: Enlarger, mistake: str, workers: int
) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011  (of whatever type it is)
        enlarger(*FIT, *source(mistake), "--data.init_args.workers", workers)
    assert not isinstance(raised.value, SystemExit)
    shown = "".join(traceback.format_exception(raised.value))
    assert "plugins_with_bugs.py" in shown
    assert plugins_with_bugs.MESSAGES[mistake] in shown


def test_an_error_of_lightning_is_its_text(
    tiny: Path, enlarger: Enlarger, refusal: Refusal
) -> None:
    logs = ("--trainer.callbacks+", f"{PLUGINS}.LogsWhereItMayNot")
    assert "self.log" in refusal(*FIT, *logs)
    with pytest.raises(MisconfigurationException):
        enlarger(*FIT, *logs, "--debug")


# ------------------------------------------------------------------------- before torch is imported


# What is typed, and a part of the answer.
TYPOS = {
    "": "the commands are fit, validate",
    "prdict": "did you mean 'predict'?",
    "fitt --config CASE": "did you mean 'fit'?",
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
