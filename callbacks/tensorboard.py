"""TensorBoard's logger: a full disk ends no run, and a resumed run goes on in the same log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

log = logging.getLogger(__name__)
FOLDER = "tensorboard"  # in the run's directory


class Events:
    """TensorBoard's writer without its errors.

    The writing thread ends at its first error, and every later call would raise that error. So no
    more events are written until training is started again.

    Args:
        writer: TensorBoard's own writer.
    """

    def __init__(self, writer: EventFileWriter) -> None:
        self._writer = writer
        self._failed = False

    def add_event(self, event: Any) -> None:
        """Write an event."""
        self._try(lambda: self._writer.add_event(event))

    def flush(self) -> None:
        """Write everything to the disk."""
        self._try(self._writer.flush)

    def close(self) -> None:
        """Close the file."""
        self._try(self._writer.close)

    def get_logdir(self) -> str:
        """Return the folder of its files."""
        return str(self._writer.get_logdir())

    def _try(self, action: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            action()
        except OSError as error:
            self._failed = True
            log.error(
                "the curves in %s could not be written (%s): training goes on without them, and "
                "they go on when it is started again",
                self.get_logdir(),
                error,
            )


class TensorBoard(TensorBoardLogger):
    """Lightning's logger of TensorBoard, which writes by ``Events``."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of torch, whose errors never end a run."""
        is_new = self._experiment is None
        experiment = super().experiment
        if is_new:
            experiment.file_writer.event_writer = Events(experiment.file_writer.event_writer)
        return experiment

    @rank_zero_only
    def begin(self, step: int) -> None:
        """Hide what a killed process logged from this step on, at which training goes on."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        start = Event(step=step, session_log=SessionLog(status=SessionLog.START))
        self.experiment.file_writer.add_event(start)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write the hyperparameters; TensorBoard shows all scalars beside them.

        Lightning would log a metric for them, -1 at step 0. What is no number or text is left out:
        a method's ``save_hyperparameters`` also saves its parts.
        """
        from torch.utils.tensorboard.summary import hparams

        plain = {k: v for k, v in dict(params).items() if isinstance(v, bool | int | float | str)}
        # Without the first summary, which would say that there are no metrics.
        _, session, _ = hparams(plain, {})  # type: ignore[no-untyped-call]
        self.experiment.file_writer.add_summary(session)


def log_text(run: Path, tag: str, text: str) -> None:
    """Log a Markdown text of a run; it replaces the one before.

    The folder is one of its own: TensorBoard reads only the newest file of a folder, which must be
    that of a training.

    Args:
        run: The run's directory.
        tag: Name of the text.
        text: The text.
    """
    # What was logged from step 0 on is hidden.
    logger = TensorBoard(str(run), name="", version=f"{FOLDER}/{tag}", purge_step=0)
    logger.experiment.add_text(tag, text, 0)
    logger.finalize("success")
