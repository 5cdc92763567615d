"""TensorBoard shows how a metric was computed beside its curve."""

from __future__ import annotations

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator as ShownEvents,  # as TensorBoard's pages get them
)

from callbacks.tensorboard import DescribedLogger


def description(folder, tag):
    events = ShownEvents(str(folder))
    events.Reload()
    metadata = events.SummaryMetadata(tag)
    assert metadata.plugin_data.plugin_name == "scalars"
    return metadata.summary_description


def test_description_and_numbers(tmp_path, caplog):
    logger = DescribedLogger(str(tmp_path))
    logger.describe("val/psnr", {"color": "y", "border": 2})
    logger.log_metrics({"val/psnr": 30.0, "train/loss": 0.5}, step=10)
    logger.describe("val/psnr", {"color": "rgb"})  # the first one stays
    logger.log_metrics({"val/psnr": torch.tensor(31.0), "train/loss": 0.25}, step=20)
    logger.finalize("success")

    assert description(tmp_path / "tensorboard", "val/psnr") == "- color: y\n- border: 2"
    assert description(tmp_path / "tensorboard", "train/loss") == ""
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in ("val/psnr", "train/loss")
    }
    assert "not associated with a plugin" not in caplog.text  # noise in every report
    assert found == {"val/psnr": [(10, 30), (20, 31)], "train/loss": [(10, 0.5), (20, 0.25)]}


def test_a_run_has_it(tiny, enlarger):
    command = ["fit", "--config", "tiny.yaml", "--trainer.logger", "true"]
    enlarger(*command, "--run.name", "described")
    found = description("runs/described/tensorboard", "val/psnr")
    assert "- implementation: enlarger psnr 1\n- color: y\n- border: scale" in found
