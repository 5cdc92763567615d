"""TensorBoard's logger, without its errors: a full disk must not end a run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)

PAUSE = 60.0  # seconds until writing to a full disk is tried again


class Events:
    """TensorBoard's writer without its errors.

    The writing thread ends at its first error, and every later call would raise that error. So
    events are dropped for a while, and then a new file of events is started.

    Args:
        writer: TensorBoard's own writer.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._again = 0.0  # when to start another file; 0 while this one works

    def add_event(self, event: Any) -> None:
        """Write an event, or drop it."""
        if self._again and time.monotonic() >= self._again:
            self._try(self._renew)
        if not self._again:
            self._try(lambda: self._writer.add_event(event))

    def flush(self) -> None:
        """Write everything to the disk."""
        if not self._again:
            self._try(self._writer.flush)

    def close(self) -> None:
        """Close the file."""
        if not self._again:
            self._try(self._writer.close)

    def get_logdir(self) -> str:
        """Return the folder of its files."""
        return str(self._writer.get_logdir())

    def _renew(self) -> None:
        self._writer = type(self._writer)(self.get_logdir())
        self._again = 0.0

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self._again = time.monotonic() + PAUSE
            log.error(
                "the curves in %s could not be written (%s): training goes on without them, and "
                "the next try is in %g s",
                *(self.get_logdir(), error, PAUSE),
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
        begun = self._experiment is None
        experiment = super().experiment
        if begun:
            self._files = experiment._get_file_writer()
            self._files.event_writer = Events(self._files.event_writer)
        return experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write the hyperparameters for the tab of this name.

        Lightning would log a metric for them, -1 at step 0.
        """
        from torch.utils.tensorboard.summary import hparams

        if self.experiment is not None:  # which makes the files
            for summary in hparams(dict(params), {}):  # type: ignore[no-untyped-call]
                self._files.add_summary(summary)
