"""TensorBoard shows how a metric was computed, next to its curve."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator as ShownEvents,  # as TensorBoard's pages get them
)
from tensorboard.summary.writer.record_writer import RecordWriter

from callbacks import tensorboard
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


def test_a_full_disk_costs_curves_and_no_run(tmp_path, monkeypatch, caplog):
    full, now, write = [False], [0.0], RecordWriter.write

    def write_or_fail(writer, data):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, data)

    monkeypatch.setattr(RecordWriter, "write", write_or_fail)
    monkeypatch.setattr(tensorboard, "time", SimpleNamespace(monotonic=lambda: 1.0 + now[0]))
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    logger = DescribedLogger(str(tmp_path))
    logger.log_metrics({"train/loss": 0.5}, step=10)
    logger.experiment.flush()
    full[0] = True
    for step in range(20, 30):
        logger.log_metrics({"train/loss": 0.4}, step=step)
        logger.experiment.flush()
    now[0] += tensorboard.PAUSE  # tried again, and still full
    logger.log_metrics({"train/loss": 0.4}, step=30)
    full[0] = False
    logger.log_metrics({"train/loss": 0.4}, step=40)
    now[0] += tensorboard.PAUSE
    logger.log_metrics({"train/loss": 0.3}, step=50)
    logger.finalize("success")

    assert caplog.text.count("No space left on device): training goes on without them") == 2
    steps = set()
    for path in (tmp_path / "tensorboard").iterdir():  # one file each, as after a restart
        events = EventAccumulator(str(path))
        events.Reload()
        steps |= (
            {e.step for e in events.Scalars("train/loss")} if events.Tags()["scalars"] else set()
        )
    assert steps == {10, 50}
