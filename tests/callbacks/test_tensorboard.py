"""A full disk costs curves of TensorBoard, and no run."""

from __future__ import annotations

import errno

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from callbacks.tensorboard import TensorBoard


def test_a_full_disk_costs_curves_and_no_run(tmp_path, monkeypatch, caplog):
    full, write = [False], RecordWriter.write

    def write_or_fail(writer, data):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, data)

    monkeypatch.setattr(RecordWriter, "write", write_or_fail)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    logger = TensorBoard(str(tmp_path))
    logger.log_metrics({"train/loss": 0.5}, step=10)
    logger.experiment.flush()
    full[0] = True
    for step in range(20, 30):
        logger.log_metrics({"train/loss": 0.4}, step=step)
        logger.experiment.flush()
    full[0] = False
    logger.finalize("success")
    again = TensorBoard(str(tmp_path))
    again.log_metrics({"train/loss": 0.3}, step=50)
    again.finalize("success")

    assert caplog.text.count("No space left on device): training goes on without them") == 1
    steps = set()
    for path in (tmp_path / "tensorboard").glob("events.*"):
        events = EventAccumulator(str(path))
        events.Reload()
        steps |= {event.step for event in events.Scalars("train/loss")}
    assert steps == {10, 50}
