"""The curves of a run: one log, however often the run is resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from callbacks.tensorboard import TensorBoard
from tests.callbacks.event_files import Log, Points

Enlarger = Callable[..., None]
Fitted = Callable[..., Path]
LOGGER = ("--trainer.logger", "true")
EVERY_TWO = (*LOGGER, "--trainer.val_check_interval", 2)
RUN = Path("runs/tiny")


def curve(run: Path, name: str) -> Points:
    return Log(run / "tensorboard").scalars(name)


def test_what_a_killed_process_logged_later_is_hidden(fitted: Fitted, enlarger: Enlarger) -> None:
    whole = fitted(*EVERY_TWO, name="whole")
    killed = fitted(*EVERY_TWO, "--trainer.max_steps", 7, name="killed")
    late = TensorBoard(str(killed), name="", version="tensorboard")
    late.log_metrics({"train/loss": 9.0}, step=8)  # after the last checkpoint
    late.log_metrics({"train/loss": 9.0, "val/psnr": 1.0}, step=50)
    late.finalize("failed")

    enlarger("fit", "--config", "tiny.yaml", *EVERY_TWO, "--run.name", "killed")

    for name in ("train/loss", "val/psnr"):
        assert curve(killed, name) == curve(whole, name)


def test_a_run_logs_images_at_each_validation_once(fitted: Fitted, enlarger: Enlarger) -> None:
    run = fitted(*EVERY_TWO, "--trainer.max_steps", 4)
    enlarger("fit", "--config", "tiny.yaml", *EVERY_TWO, "--trainer.max_steps", 7)

    log = Log(run / "tensorboard")
    validated = [step for step, _ in log.scalars("val/psnr")]
    assert validated == [1, 3, 6]
    assert log.names("images") == ["images/photos/1", "images/photos/2"]
    for name in log.names("images"):
        assert [step for step, _ in log.images(name)] == validated


def test_results_are_a_text_that_the_next_evaluation_replaces(
    fitted: Fitted, enlarger: Enlarger
) -> None:
    run = fitted()
    enlarger("test", "--config", "tiny.yaml")
    enlarger("test", "--config", "tiny.yaml", "--trainer.callbacks+", "callbacks.SSIM")

    (text,) = Log(run / "tensorboard/results").texts("results")
    results = json.loads((run / "results.json").read_text())["results"]
    assert {result["metric"] for result in results} == {"psnr", "ssim"}
    for result in results:
        assert f"{result['value']:.4f}" in text
