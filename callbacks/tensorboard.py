"""TensorBoard's logger, without its errors: a full disk must not end a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

log = logging.getLogger(__name__)


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
                "they go on when it is started again; those of the report are kept",
                self.get_logdir(),
                error,
            )


class TensorBoard(TensorBoardLogger):
    """Lightning's logger of TensorBoard, with ``Events``, and with hyperparameters alone.

    Args:
        save_dir: Folder of all runs' logs.
        name: Folder of the run in it; none if empty.
        version: Folder within that.
    """

    def __init__(self, save_dir: str, name: str = "", version: str = "tensorboard") -> None:
        super().__init__(save_dir, name=name, version=version)
        self._files: Any = None  # of the experiment

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of torch, whose errors never end a run."""
        is_new = self._experiment is None
        try:
            experiment = super().experiment
        except OSError as error:  # the writer's own names no file
            raise OSError(error.errno, error.strerror, self.log_dir) from None
        if is_new:
            self._files = experiment._get_file_writer()
            self._files.event_writer = Events(self._files.event_writer)
        return experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write the hyperparameters for the tab of this name.

        Lightning would log a metric for them, -1 at step 0. What is no number or text is left out:
        a method's ``save_hyperparameters`` also saves its parts.
        """
        from torch.utils.tensorboard.summary import hparams

        if self.experiment is not None:  # which makes the files
            plain = {
                k: v for k, v in dict(params).items() if isinstance(v, bool | int | float | str)
            }
            for summary in hparams(plain, {}):  # type: ignore[no-untyped-call]
                self._files.add_summary(summary)
