"""A full disk costs curves of TensorBoard, and no run."""

from __future__ import annotations

import errno
from types import SimpleNamespace

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from callbacks import tensorboard
from callbacks.tensorboard import TensorBoard


def test_a_full_disk_costs_curves_and_no_run(tmp_path, monkeypatch, caplog):
    full, now, write = [False], [0.0], RecordWriter.write

    def write_or_fail(writer, data):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, data)

    monkeypatch.setattr(RecordWriter, "write", write_or_fail)
    monkeypatch.setattr(tensorboard, "time", SimpleNamespace(monotonic=lambda: 1.0 + now[0]))
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    logger = TensorBoard(str(tmp_path))
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
