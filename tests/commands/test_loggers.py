"""What a run logs: curves, images, results and hyperparameters, also after a resume."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger
from tensorboard.summary.writer import event_file_writer

from callbacks.tensorboard import TensorBoard
from commands.run.loggers import OF_TRAINER, hyperparameters
from tests.callbacks.event_files import Log

FIT = "fit --config tiny.yaml"
EVERY_TWO = "--trainer.logger true --trainer.val_check_interval 2"


@pytest.fixture(autouse=True)
def _few_event_files(monkeypatch):
    """TensorBoard reads files of one second by their count in the process, as text: 10 before 9."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


# ------------------------------------------------------------------------------------ TensorBoard


def test_what_a_killed_process_logged_after_its_last_checkpoint_is_hidden(fitted, enlarger):
    whole = fitted(EVERY_TWO, name="whole")
    killed = fitted(f"{EVERY_TWO} --trainer.max_steps 7", name="killed")
    late = TensorBoard(str(killed), name="", version="tensorboard")
    late.log_metrics({"train/loss": 9.0}, step=8)  # after the last checkpoint
    late.log_metrics({"train/loss": 9.0, "val/psnr": 1.0}, step=50)
    late.finalize("failed")

    enlarger(f"{FIT} {EVERY_TWO} --run.name killed")

    for name in ("train/loss", "val/psnr"):
        expected = Log(whole / "tensorboard").scalars(name)
        assert Log(killed / "tensorboard").scalars(name) == expected


def test_images_are_logged_once_at_each_validation(fitted, enlarger):
    run = fitted(f"{EVERY_TWO} --trainer.max_steps 4")
    enlarger(f"{FIT} {EVERY_TWO} --trainer.max_steps 7")
    log = Log(run / "tensorboard")
    validated = [step for step, _ in log.scalars("val/psnr")]
    # After batches 2 and 4 of each epoch of 5: steps 2, 4 and 5 + 2, which are counted from 0.
    assert validated == [1, 3, 6]
    assert log.names("images") == ["images/photos/1", "images/photos/2"]
    for name in log.names("images"):
        assert [step for step, _ in log.images(name)] == validated


def test_the_table_of_results_in_tensorboard_is_replaced_by_the_next_evaluation(trained, enlarger):
    enlarger("test --config tiny.yaml")
    enlarger("test --config tiny.yaml --trainer.callbacks+ callbacks.SSIM")
    (text,) = Log(trained / "tensorboard/results").texts("results")
    results = json.loads((trained / "results.json").read_text())["results"]
    assert {result["metric"] for result in results} == {"psnr", "ssim"}
    for result in results:
        assert f"{result['value']:.4f}" in text


# ------------------------------------------------------------------------ loggers of other packages


@pytest.mark.slow
def test_metrics_of_an_earlier_start_are_kept_if_the_logger_has_a_fixed_version(
    tiny, enlarger, caplog
):
    """Lightning's logger would delete them."""
    logger = """--trainer.logger '{class_path: lightning.pytorch.loggers.CSVLogger,
        init_args: {save_dir: logs, name: a, version: 0}}'"""
    folder = Path("logs/a/version_0")
    enlarger(f"{FIT} {logger} --trainer.max_steps 4")
    earlier = (folder / "metrics.csv").read_text()

    enlarger(f"{FIT} {logger} --trainer.max_steps 8")

    assert "has the metrics of an earlier start" in caplog.text
    newer, kept = sorted(folder.glob("metrics.csv*"))
    assert kept.read_text() == earlier
    *_, last = csv.DictReader(newer.read_text().splitlines())
    assert last["step"] == "7"  # the eighth step

    enlarger(f"test --config tiny.yaml {logger}")  # logs nothing
    assert sorted(folder.glob("metrics.csv*")) == [newer, kept]


class TakesImages(CSVLogger):
    """A logger that takes images, as that of Weights & Biases does."""

    taken: list[Any] = []  # noqa: RUF012  (read by the test)

    def log_image(self, key, images, step):
        TakesImages.taken.append((key, step, images))


class MLFlowLogger(CSVLogger):
    """Keeps runs apart by their ids, as Lightning's logger of this name does."""

    def __init__(self, run_name: str | None = None, run_id: str | None = None) -> None:
        super().__init__("logs", run_name, run_id or f"id {len(list(Path('logs').glob('*/*')))}")


OTHER_LOGGER = f"--trainer.logger {__name__}.TakesImages --trainer.logger.save_dir logs"


def test_a_logger_of_another_package_gets_the_images_of_each_validation(tiny, enlarger):
    TakesImages.taken.clear()

    enlarger(f"{FIT} {EVERY_TWO} {OTHER_LOGGER} --trainer.max_steps 4")

    names = [(key, step) for key, step, _ in TakesImages.taken]
    photos = ("images/photos/1", "images/photos/2")
    # Validated after batches 2 and 4, that is steps 1 and 3, counted from 0.
    assert names == [(photo, step) for step in (1, 3) for photo in photos]
    for _, _, (image,) in TakesImages.taken:
        assert image.dtype == np.uint8
        assert image.shape[-1] == 3


def test_a_resumed_run_goes_on_in_its_run_of_mlflow_and_an_overwritten_one_begins_another(
    tiny, enlarger
):
    fit = f"{FIT} --run.name a --trainer.logger {__name__}.MLFlowLogger --trainer.max_steps"
    enlarger(f"{fit} 2")
    enlarger(f"{fit} 3")
    assert [folder.name for folder in Path("logs/a").iterdir()] == ["id 0"]

    enlarger(f"{fit} 2 --run.overwrite true")

    assert {folder.name for folder in Path("logs/a").iterdir()} == {"id 0", "id 1"}


def test_a_logger_of_another_package_gets_the_hyperparameters(tiny, enlarger):
    enlarger(f"{FIT} {OTHER_LOGGER} --trainer.max_steps 1")

    # The values of tests/tiny.yaml, but for those of the command and a default.
    expected = {
        "model": "lightning_modules.Regression",
        "model.network": "lightning_modules.EDSR",
        "model.network.blocks": 1,
        "model.lr_scheduler.gamma": 0.9,
        "data.batch_size": 4,
        "degradation": "degradations.Bicubic",
        "trainer.max_steps": 1,
        "seed_everything": 0,
        "lr": 2e-4,  # the default, lightning_modules.optimisation.adam
    }
    (file,) = Path("logs").rglob("hparams.yaml")
    assert yaml.safe_load(file.read_text()).items() >= expected.items()


def test_hyperparameters_are_flat_without_passwords_unset_values_and_evaluated_sets():
    """Loggers show a table: one value a row. Some send it to a server, so URLs lose their secrets.

    Sets for evaluation are left out, as are values of None, here all of the trainer.
    """
    blur = {"class_path": "degradations.Blur", "init_args": {"sigma": [0.2, 3.0]}}
    shards = {"urls": ["https://user:word@host/a.tar?signature=secret"], "weights": None}
    sets = {"a": shards}
    data = {"train": shards, "val": sets, "test": sets, "predict": sets}
    config = {
        "model": {"class_path": "lightning_modules.Bicubic"},
        "data": {"class_path": "D", "init_args": data},
        "degradation": {"class_path": "C", "init_args": {"stages": [blur, blur]}},
        "seed_everything": 1,
        "trainer": dict.fromkeys(OF_TRAINER),
    }
    assert hyperparameters(config) == {
        "model": "lightning_modules.Bicubic",
        "data": "D",
        "data.train.urls": "['https://host/a.tar?...']",
        "degradation": "C",
        "degradation.stages.0": "degradations.Blur",
        "degradation.stages.0.sigma": "[0.2, 3.0]",
        "degradation.stages.1": "degradations.Blur",
        "degradation.stages.1.sigma": "[0.2, 3.0]",
        "seed_everything": 1,
    }
