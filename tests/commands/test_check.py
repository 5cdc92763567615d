"""`check`: the first step of a run, the files that it needs, and this machine; leaves nothing."""

import signal
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from tests.conftest import REPO

CHECK = "check --config tiny.yaml"


def files():
    """Files and folders, and when each file was written."""
    return {path: path.is_file() and path.stat().st_mtime_ns for path in Path().rglob("*")}


# ---------------------------------------------------------------------------------- the first step


def test_the_shapes_of_the_first_batch_are_shown_and_nothing_is_left(
    tiny, enlarger, capsys, caplog
):
    caplog.set_level("INFO")
    before = files()
    enlarger(CHECK)
    printed = capsys.readouterr().out
    assert "16x16" in printed  # HR: data.crop_size
    assert "8x8" in printed  # LR, at scale 2
    assert "all is well" in caplog.text
    assert files() == before


KEPT = """[lightning.pytorch.callbacks.LearningRateMonitor,
    {class_path: lightning.pytorch.callbacks.ModelCheckpoint,
     init_args: {dirpath: kept, save_on_exception: true}}]"""


CSV_LOGGER = "lightning.pytorch.loggers.CSVLogger --trainer.logger.save_dir logs"


@pytest.mark.parametrize("logger", ["true", CSV_LOGGER])
def test_check_leaves_no_files_of_a_users_loggers_and_checkpoints(trained, enlarger, logger):
    """In the folder of a run that exists: it stays as it is."""
    before = files()
    changes = "--trainer.max_steps 14 --run.change true"  # the run has done 12 steps
    enlarger(f"{CHECK} --trainer.logger {logger} {changes} --trainer.callbacks", KEPT)
    assert files() == before


class Interrupt(Callback):
    """Send Ctrl-C in the first batch."""

    def on_train_batch_start(self, trainer, pl_module, *args):
        signal.raise_signal(signal.SIGINT)


def test_check_stopped_by_ctrl_c_does_not_say_that_all_is_well(tiny, enlarger, caplog):
    caplog.set_level("INFO")
    before = files()
    with pytest.raises(SystemExit, match="130"):  # 128 + SIGINT
        enlarger(f"{CHECK} --trainer.callbacks+ {__name__}.Interrupt")
    assert "all is well" not in caplog.text
    assert "stopped by SIGINT before its end" in caplog.text
    assert "checkpoint" not in caplog.text  # none is written, so none is named
    assert files() == before


# -------------------------------------------------------------------------------- files and machine


@pytest.fixture
def check(tmp_path, monkeypatch, capsys, enlarger):
    """Run `check` in an empty folder; return its status and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENLARGER_DATA", raising=False)
    monkeypatch.delenv("ENLARGER_WEIGHTS", raising=False)

    def run(*typed):
        with pytest.raises(SystemExit) as ended:
            enlarger("check", *typed)
        return ended.value.code, capsys.readouterr().out

    return run


def test_check_lists_the_runs_and_images_that_an_experiment_lacks_with_their_sources(check):
    """casarbi.yaml begins with the weights of the run casarbi_base, and trains on ffhq_128."""
    status, printed = check("--config", REPO / "configs/experiment/casarbi.yaml")
    base = REPO / "configs/experiment/casarbi_base.yaml"
    assert status == 2  # a configuration that lacks files
    assert f"python {REPO / 'main.py'} fit --config {base}" in printed
    assert "broken  data.train.root: $ENLARGER_DATA/ffhq_128 is missing" in printed
    assert "https://github.com/NVlabs/ffhq-dataset" in printed
    assert "broken  ENLARGER_DATA: is not set" in printed


@pytest.mark.parametrize(("stage", "needs_captions"), [("stage1", False), ("stage2", True)])
def test_check_says_how_to_prepare_pairs_and_if_captions_are_missing(check, stage, needs_captions):
    """Both are validated on pairs made of DIV2K."""
    status, printed = check("--config", REPO / f"configs/experiment/nsarm_8b_{stage}.yaml")
    assert status == 2  # a configuration that lacks files
    assert "prepare div2k_1024 ARCHIVE" in printed
    sentence = "broken  model.encoder: each of these images needs a caption"
    assert (sentence in printed) == needs_captions


def test_check_without_a_configuration_finds_no_fault_of_this_machine(check):
    status, printed = check()
    assert status == 0
    for subject in ("Python", "packages", "torchvision"):
        assert f"ok      {subject}: " in printed
    assert list(Path().iterdir()) == []


def test_a_wrong_weights_file_and_a_missing_folder_are_broken(check, tmp_path, monkeypatch):
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("ENLARGER_DATA", str(tmp_path / "none"))
    (tmp_path / "imdn-x2.pth").write_bytes(b"version https://git-lfs")  # a pointer to the file
    status, printed = check()
    assert status == 1  # 2 is for a configuration that lacks files
    assert "ok      ENLARGER_WEIGHTS: " in printed
    assert "broken  ENLARGER_DATA: " in printed
    assert "broken  weights imdn-x2: " in printed
    assert printed.endswith("2 broken\n")
