"""Missing files are named before anything is built, all of them at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule

from tests.conftest import REPO
from tests.quick import quick

Refusal = Callable[..., str]
Enlarger = Callable[..., None]
WEIGHTS = "--model.init_args.weights"
COMMANDS = ("fit", "validate", "test", "predict", "export", "check", "encode")


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that must not be built."""

    def build(self: LightningModule, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("the model was built")

    monkeypatch.setattr(LightningModule, "__init__", build)
    monkeypatch.delenv("ENLARGER_WEIGHTS", raising=False)


def given_to(command: str, photo_folder: Path) -> tuple[object, ...]:
    predict = ("--data.init_args.predict", photo_folder) if command == "predict" else ()
    return (command, "--config", "tiny.yaml", *predict)


@pytest.mark.parametrize(
    ("command", "weights", "got"),
    quick(
        [
            (
                "fit",
                "$ENLARGER_WEIGHTS/net.pth",
                "environment variable ENLARGER_WEIGHTS is not",
            ),
            *((command, "gone/net.pth", "and there is no such file") for command in COMMANDS),
        ],
        *("fit", "predict"),
    ),
)
@pytest.mark.usefixtures("unbuilt")
def test_the_model_s_own(
    tiny: Path, refusal: Refusal, photo_folder: Path, command: str, weights: str, got: str
) -> None:
    said = refusal(*given_to(command, photo_folder), WEIGHTS, weights)
    assert f"model.weights is {weights!r}" in said
    assert got in said
    assert not Path("runs/tiny").exists()


@pytest.mark.usefixtures("unbuilt")
def test_all_of_them_at_once(tiny: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENLARGER_DATA", raising=False)
    config = REPO / "configs" / "experiment" / "nsarm_8b_inference.yaml"
    said = refusal("test", "--config", config)
    assert "things are missing:" in said
    assert "model.weights is '$ENLARGER_WEIGHTS/NSARM.pth'" in said
    assert "model.space_weights is 'infinity-vae-d56'" in said


@pytest.mark.usefixtures("unbuilt")
def test_a_checkpoint(tiny: Path, refusal: Refusal) -> None:
    said = refusal("test", "--config", "tiny.yaml", "--ckpt_path", "gone.ckpt")
    assert said == "ckpt_path is gone.ckpt, and there is no such file"


def test_a_missing_file_does_not_move_a_run_aside(trained: Path, refusal: Refusal) -> None:
    refusal("fit", "--config", "tiny.yaml", WEIGHTS, "gone.pth", "--run.overwrite", "true")
    assert list(trained.parent.iterdir()) == [trained]


def test_what_is_not_read_may_be_gone(tiny: Path, enlarger: Enlarger, trained: Path) -> None:
    """A run has its own checkpoints, whatever it was started from."""
    shutil.copy(next(trained.glob("checkpoints/*.ckpt")), "start.ckpt")
    command = ("--config", "tiny.yaml", "--run.name", "from", WEIGHTS, "start.ckpt")
    enlarger("fit", *command, "--trainer.max_steps", 2)
    Path("start.ckpt").unlink()
    enlarger("fit", *command, "--trainer.max_steps", 3)
    enlarger("test", *command)
