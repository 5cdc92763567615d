"""Missing weights are named before anything is built."""

from __future__ import annotations

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


@pytest.fixture
def lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """Return what `check` of an experiment prints, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENLARGER_DATA", raising=False)
    monkeypatch.delenv("ENLARGER_WEIGHTS", raising=False)

    def check(experiment: str) -> str:
        config = str(REPO / "configs/experiment" / experiment)
        with pytest.raises(SystemExit, match="2"):
            main.main(["check", "--config", config])
        return capsys.readouterr().out

    return check


def test_check_lists_all_that_is_missing(lacks: Callable[[str], str]) -> None:
    printed = lacks("casarbi.yaml")
    recipe = REPO / "configs/experiment/casarbi_base.yaml"
    assert f"python {REPO / 'main.py'} fit --config {recipe}" in printed
    assert "broken  data.train.root: $ENLARGER_DATA/ffhq_128 is missing" in printed
    assert "https://github.com/NVlabs/ffhq-dataset" in printed
    assert "broken  ENLARGER_DATA: is not set" in printed


def test_check_names_pairs_and_captions_that_no_set_has(lacks: Callable[[str], str]) -> None:
    printed = lacks("nsarm_8b_stage2.yaml")
    assert "prepare div2k_1024 ARCHIVE" in printed
    assert "broken  model.encoder: each of these images needs a caption" in printed
    assert "broken  ENLARGER_WEIGHTS: is not set" in printed
