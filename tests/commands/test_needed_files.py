"""Missing weights are named before anything is built."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule

import main
from tests.conftest import REPO

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
        ("fit", "gone/net.pth", "neither a file"),
        ("test", "gone/net.pth", "neither a file"),
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


def test_check_lists_all_at_once_and_the_size_of_the_model(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The model has its full size, and none of its weights is there."""
    monkeypatch.delenv("ENLARGER_DATA", raising=False)
    config = str(REPO / "configs/experiment/casarbi.yaml")
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit, match="2"):
        main.main(["check", "--config", config, "--trainer.callbacks", "[callbacks.EMA]"])
    printed = capsys.readouterr()
    assert "fit --config configs/experiment/casarbi_base.yaml" in printed.out
    assert "missing: $ENLARGER_DATA/ffhq_128  (data.train.root)" in printed.out
    assert "https://github.com/NVlabs/ffhq-dataset" in printed.out
    assert "error: 3 of what fit needs are missing" in printed.err
    assert "45,388,115 parameters train" in caplog.text
    assert "averages 0.18" in caplog.text
