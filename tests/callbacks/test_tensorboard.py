"""TensorBoard's logger: a full disk costs curves and no run; hyperparameters."""

from __future__ import annotations

import errno

from tensorboard.summary.writer.record_writer import RecordWriter

from callbacks.tensorboard import TensorBoard
from tests.callbacks.event_files import Log


def test_a_full_disk_costs_curves_and_no_run(tmp_path, monkeypatch, caplog):
    full, write = [False], RecordWriter.write

    def write_or_fail(writer, data):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, data)

    monkeypatch.setattr(RecordWriter, "write", write_or_fail)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    logger = TensorBoard(str(tmp_path), name="", version="")
    logger.log_metrics({"train/loss": 0.5}, step=10)
    logger.experiment.flush()
    full[0] = True
    for step in range(20, 30):
        logger.log_metrics({"train/loss": 0.4}, step=step)
        logger.experiment.flush()
    full[0] = False
    logger.finalize("success")
    again = TensorBoard(str(tmp_path), name="", version="")
    again.log_metrics({"train/loss": 0.3}, step=50)
    again.finalize("success")

    assert caplog.text.count("No space left on device): training goes on without them") == 1
    assert [step for step, _ in Log(tmp_path).scalars("train/loss")] == [10, 50]


def test_hyperparameters_are_those_of_the_tab(tmp_path):
    logger = TensorBoard(str(tmp_path), name="", version="")
    logger.log_hyperparams({"lr": 0.1, "model": "EDSR", "parts": object()})
    logger.finalize("success")

    content = Log(tmp_path).hyperparameters()
    assert content == {"lr": 0.1, "model": "EDSR"}
