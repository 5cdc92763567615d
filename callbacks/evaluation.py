"""What callbacks of evaluation share: datasets, ranks, whether images are finite.

An `EvaluationCallback` starts, adds batch after batch, and finishes, whichever command evaluates.

All processes must call the functions that gather.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from files.method import method_of

Stage = Literal["val", "test"]
MetricProtocol = dict[str, str | int | float | bool | None]  # how a number is computed
T = TypeVar("T")
NO_LIMIT = timedelta(days=365)  # torch needs some limit
log = logging.getLogger(__name__)


class EvaluationCallback(Callback, ABC):
    """A callback that works alike in ``validate``, ``test`` and the validations of ``fit``."""

    @abstractmethod
    def _start(self, trainer: Trainer) -> None:
        """Start an evaluation, or Lightning's sanity check."""

    @abstractmethod
    def _add(self, outputs: Any, batch: Any, dataloader_idx: int) -> None:
        """Add a batch; no process may wait for another here."""

    @abstractmethod
    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Finish the evaluation: the place to combine the numbers of all processes."""

    # ------------------------------------------------------------------------- Lightning's hooks

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an evaluation."""
        self._start(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the images of one batch."""
        self._add(outputs, batch, dataloader_idx)

    on_test_epoch_start, on_test_batch_end = on_validation_epoch_start, on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Combine the numbers of all processes."""
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Combine the numbers of all processes."""
        self._finish(trainer, pl_module, "test")


def evaluated_datasets(trainer: Trainer) -> list[Any]:
    """Return the datasets of the current evaluation, in the order of ``dataloader_idx``.

    Raises:
        ValueError: If two have one name.
    """
    loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if not isinstance(loaders, list | tuple):
        loaders = [loaders]
    datasets = [loader.dataset for loader in loaders]
    names = [dataset.name for dataset in datasets]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two datasets are named {name!r}, and numbers are distinguished by the names: "
                "give one of them another `name`"
            )
    return datasets


def output_image(outputs: Any) -> Tensor:
    """Return what a step returned: images (B, 3, H, W) in [0, 1], or clips (B, F, 3, H, W)."""
    image: Tensor = outputs["sr"]
    return image


def all_callbacks(trainer: Trainer) -> list[Callback]:
    """Return the trainer's callbacks, which Lightning leaves untyped."""
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def predicted_dataset(trainer: Trainer, index: int) -> Any:
    """Return the dataset of the ``index``-th loader of ``predict``; None if it has none."""
    loaders: Any = trainer.predict_dataloaders
    loader = loaders[index] if isinstance(loaders, list | tuple) else loaders
    return getattr(loader, "dataset", None)


def accumulated(trainer: Trainer) -> int:
    """Return the number of batches whose gradients are accumulated for one optimiser step.

    A method that optimises manually, as with two optimisers, has a number of its own.
    """
    batches = method_of(trainer.lightning_module).batches_per_step
    return trainer.accumulate_grad_batches if batches is None else batches


def gather(mine: T) -> list[T]:
    """Return the values of all processes, by rank."""
    if not is_distributed():
        return [mine]
    everyones: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, mine)
    return everyones


def gather_on_first(mine: T) -> list[T]:
    """Return the values of all processes, by rank, on the first; an empty list on the others."""
    if not is_distributed():
        return [mine]
    if dist.get_rank() > 0:
        dist.gather_object(mine)
        return []
    everyones: list[Any] = [None] * dist.get_world_size()
    dist.gather_object(mine, everyones)
    return everyones


def patient_group() -> Any:
    """Return a process group of all processes without a time limit; None on one process.

    For the end of uneven work: a process may have one long video more than the others. If a process
    ends, its closed connections still end the wait of the others.
    """
    return dist.new_group(backend="gloo", timeout=NO_LIMIT) if is_distributed() else None


class FailedElsewhereError(RuntimeError):
    """Another process failed, and raises the error itself; the message is the same."""


def on_all(work: Callable[[], T]) -> list[T]:
    """Call ``work`` on each process and return all results by rank; errors are raised on all.

    Args:
        work: Called on every process.

    Raises:
        FailedElsewhereError: If it failed on another process; a failing one raises its own error.
    """
    error: Exception | None = None
    result: Any = None
    try:
        result = work()
    except Exception as caught:  # whatever it is, the others must not wait forever
        error = caught
    everyones = gather((result, None if error is None else str(error)))
    if error is not None:
        raise error
    for _, message in everyones:
        if message is not None:
            raise FailedElsewhereError(message)
    return [result for result, _ in everyones]


def on_first(work: Callable[[], T]) -> T:
    """Call ``work`` on the first process and return its result on all; errors are raised on all.

    Args:
        work: Called on the first process only.

    Raises:
        FailedElsewhereError: If it failed; the first process raises the error itself.
    """
    is_first = not is_distributed() or dist.get_rank() == 0
    return on_all(work if is_first else lambda: None)[0]  # type: ignore[return-value]  # its own


def is_distributed() -> bool:
    """Return whether there is more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def are_finite(images: Tensor) -> Tensor:
    """Return whether all pixels of an image are finite: (B,), of (B, 3, H, W) in about [0, 1]."""
    # A sum is finite only if all of its terms are, and takes a thirtieth of `isfinite().all()`.
    return images.flatten(1).sum(1, dtype=torch.float32).isfinite()


def nan_where_not_finite(values: Tensor, images: Tensor) -> Tensor:
    """Return the numbers of images, with NaN for an image with any pixel that is not finite.

    For metrics that clamp, crop or skip parts; the warning about numbers that are not finite then
    names the image.

    Args:
        values: (B,) floating.
        images: (B, 3, H, W).

    Returns:
        (B,) on the device of ``values``.
    """
    return torch.where(are_finite(images).to(values.device), values, torch.nan)
