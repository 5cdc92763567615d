"""A full disk while a checkpoint is written, and a folder that is not writable."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from lightning.pytorch import Callback, Trainer

from files import owned
from tests.commands.run.test_checkpoints import FIT, files, newest_step, steps
from tests.commands.test_resume import assert_same

Refusal = Callable[..., str]
Enlarger = Callable[..., None]
Fill = Callable[[str], None]
Fitted = Callable[..., Path]
FULL = Path("/dev/full")  # every write to it fails as on a full disk
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Fill the disk for one file of `runs/tiny/checkpoints`; the failure frees it."""
    own = owned._open_temporary

    def filled(name: str) -> None:
        def begun(path: Path) -> BinaryIO:
            file = own(path)
            if not fnmatch(path.name, name):
                return file
            file.close()
            Path(file.name).unlink()
            Path(file.name).symlink_to(FULL)
            monkeypatch.setattr(owned, "_open_temporary", own)
            return open(file.name, "wb")

        monkeypatch.setattr(owned, "_open_temporary", begun)

    return filled


@needs_full
def test_a_full_disk_costs_one_checkpoint(
    fitted: Fitted, enlarger: Enlarger, fill: Fill, caplog: pytest.LogCaptureFixture
) -> None:
    """The previous one is kept, training continues, and the next one is written."""
    fitted("--trainer.max_steps", 4, "--checkpoint.every_n_steps", 2)
    before = files(Path("runs/tiny/checkpoints"))
    assert steps() == [4, 2]
    caplog.clear()
    fill("step-*.ckpt")
    more = ("--trainer.max_steps", 12, "--checkpoint.every_n_steps", 2)
    enlarger(*FIT, *more, "--trainer.callbacks+", f"{__name__}.Watch", "--run.change", "true")
    (loud,) = (r.getMessage() for r in caplog.records if r.levelname == "ERROR")
    assert "step-000000005.ckpt could not be written" in loud  # validated at the epoch's end
    assert "kept: step-000000004.ckpt, step-000000002.ckpt" in loud
    assert "Training continues" in loud
    assert Watch.after_step_5 == before
    fitted(name="whole")
    assert_same("tiny", "whole")


class Watch(Callback):
    """Note the folder's content between the failure and the next checkpoint."""

    after_step_5: dict[Path, bytes] = {}  # noqa: RUF012  (set once, read by the test)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 5:  # Checkpoints comes before all other callbacks
            Watch.after_step_5 = files(Path(trainer.default_root_dir, "checkpoints"))


@needs_full
def test_a_full_disk_at_the_end_is_an_error(
    fitted: Fitted,
    refusal: Refusal,
    enlarger: Enlarger,
    fill: Fill,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fitted("--trainer.max_steps", 4, "--checkpoint.every_n_steps", 2)
    before = files(Path("runs/tiny/checkpoints"))
    fill("step-*.ckpt")
    caplog.clear()
    val = ("--data.init_args.val", "null", "--run.change", "true")
    sentence = refusal(*FIT, *val, "--trainer.max_steps", 6)
    assert "step-000000006.ckpt could not be written" in sentence
    assert "kept: step-000000004.ckpt" in sentence
    assert "Training continues" not in caplog.text
    assert files(Path("runs/tiny/checkpoints")) == before
    enlarger(*FIT, *val, "--trainer.max_steps", 6)  # there is room again
    assert newest_step() == 6


@needs_full
def test_a_ranking_that_is_not_written_ends_no_training(
    tiny: Path, enlarger: Enlarger, fill: Fill, caplog: pytest.LogCaptureFixture
) -> None:
    fill("best.json")
    enlarger(*FIT, "--trainer.max_steps", 2)
    (loud,) = (r.getMessage() for r in caplog.records if r.levelname == "ERROR")
    assert "step-000000002.ckpt is written, but not ranked" in loud


@pytest.mark.parametrize("command", ["fit", "check", "validate", "test"])
def test_a_file_where_runs_are_to_lie_is_refused_before_any_work(
    tiny: Path, refusal: Refusal, command: str
) -> None:
    place = ("--run.root", "tiny.yaml", "--run.name", "new")
    sentence = refusal(command, "--config", "tiny.yaml", *place)
    assert "the run cannot be written to tiny.yaml/new: tiny.yaml is no folder" in sentence
    assert sentence.endswith("set another run.root or run.name")
