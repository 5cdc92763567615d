"""Missing weights are named before anything is built."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule

Refusal = Callable[..., str]
Enlarger = Callable[..., None]
WEIGHTS = "--model.init_args.weights"


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that must not be built."""

    def build(self: LightningModule, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("the model was built")

    monkeypatch.setattr(LightningModule, "__init__", build)
    monkeypatch.delenv("ENLARGER_WEIGHTS", raising=False)


@pytest.mark.parametrize(
    ("command", "weights", "got"),
    [
        ("fit", "$ENLARGER_WEIGHTS/net.pth", "environment variable ENLARGER_WEIGHTS is not"),
        ("fit", "gone/net.pth", "and there is no such file"),
        ("test", "gone/net.pth", "and there is no such file"),
    ],
)
@pytest.mark.usefixtures("unbuilt")
def test_the_model_s_own(
    tiny: Path, refusal: Refusal, command: str, weights: str, got: str
) -> None:
    said = refusal(command, "--config", "tiny.yaml", WEIGHTS, weights)
    assert f"model.weights is {weights!r}" in said
    assert got in said
    assert not Path("runs/tiny").exists()


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
