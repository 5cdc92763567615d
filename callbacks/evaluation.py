"""Base of all callbacks that evaluate outputs, in validation and in test, and shared look-ups.

An `EvaluationCallback` starts, adds batch after batch, and finishes, whichever command evaluates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

Stage = Literal["val", "test"]


class EvaluationCallback(Callback, ABC):
    """A callback that works alike in ``validate``, ``test`` and the validations of ``fit``.

    Args:
        every_n: In ``fit``, run at the first validation and at every n-th after it; a resumed run
            continues the count.

    Raises:
        ValueError: If ``every_n`` is below 1.
    """

    def __init__(self, every_n: int = 1) -> None:
        super().__init__()
        check_at_least_one(self, every_n=every_n)
        self.every_n = every_n
        self._validations = 0  # completed so far

    @abstractmethod
    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an evaluation, or Lightning's sanity check."""

    @abstractmethod
    def _add(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        dataloader_idx: int,
    ) -> None:
        """Add a batch; no process may wait for another here."""

    @abstractmethod
    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Finish the evaluation: the place to combine the numbers of all processes."""

    def _due(self, trainer: Trainer) -> bool:
        """Return whether this evaluation is due; to be called once, at its start."""
        if trainer.sanity_checking:
            return False
        if trainer.state.fn != TrainerFn.FITTING:
            return True
        return self._validations % self.every_n == 0

    # ------------------------------------------------------------------------- Lightning's hooks

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start afresh."""
        self._start(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start afresh."""
        self._start(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at the images of one batch."""
        self._add(trainer, pl_module, outputs, batch, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at the images of one batch."""
        self._add(trainer, pl_module, outputs, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring together what all processes saw."""
        self._finish(trainer, pl_module, "val")
        # Only now: a resumed run repeats an interrupted validation under the same number.
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._validations += 1

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring together what all processes saw."""
        self._finish(trainer, pl_module, "test")

    # Not in `state_dict`: Lightning would refuse two metrics of one class with its own message,
    # before `setup` can name the key to change.
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the number of validations for ``every_n``."""
        if self.every_n > 1:
            checkpoint["callbacks"][self.state_key] = {"validations": self._validations}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the number of validations."""
        state = checkpoint["callbacks"].get(self.state_key, {})
        self._validations = state.get("validations", 0)


def check_at_least_one(owner: object, **settings: int | None) -> None:
    """Check counting arguments; None means no limit.

    Args:
        owner: The object that has the arguments.
        settings: Their values by name.

    Raises:
        ValueError: If one is below 1.
    """
    for key, value in settings.items():
        if value is not None and value < 1:
            raise ValueError(f"`{key}` of {type(owner).__name__} is {value}; it must be at least 1")


def evaluated_datasets(trainer: Trainer) -> list[Any]:
    """Return the datasets of the current evaluation, in the order of ``dataloader_idx``.

    Raises:
        TypeError: If a dataset has no ``name``, ``scale`` or ``keys``.
    """
    found = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    loaders = list(found.values()) if isinstance(found, Mapping) else found
    if not isinstance(loaders, list | tuple):
        loaders = [loaders]
    datasets = [loader.dataset for loader in loaders]
    for dataset in datasets:
        missing = [name for name in ("name", "scale", "keys") if not hasattr(dataset, name)]
        if missing:
            raise TypeError(
                f"the dataset {type(dataset).__name__} has no {', '.join(missing)}, by which "
                "numbers are told apart; evaluate through datamodules.base.SRDataModule, or give "
                "the dataset these attributes"
            )
    return datasets


def output_image(outputs: Any) -> Tensor:
    """Return the image that a step returned.

    Raises:
        TypeError: If it is not ``{"sr": image}``.
    """
    if not isinstance(outputs, Mapping) or "sr" not in outputs:
        raise TypeError(
            f"the model's step returned {type(outputs).__name__}; "
            'expected {"sr": image}, the image (B, 3, H, W) in [0, 1]'
        )
    return outputs["sr"]


def all_callbacks(trainer: Trainer) -> list[Callback]:
    """Return the trainer's callbacks, which Lightning leaves untyped."""
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def predicted_dataset(trainer: Trainer, index: int) -> Any:
    """Return the dataset of the ``index``-th loader of ``predict``; None if it has none."""
    loaders: Any = trainer.predict_dataloaders
    loader = loaders[index] if isinstance(loaders, list | tuple) else loaders
    return getattr(loader, "dataset", None)


def steps_done(trainer: Trainer, pl_module: LightningModule) -> int:
    """Return the main optimiser's updates; ``global_step`` also counts those of a second one."""
    steps = getattr(pl_module, "steps", None)
    return trainer.global_step if steps is None else int(steps)


def accumulated(trainer: Trainer) -> int:
    """Return the batches per step; methods with two optimisers count them themselves."""
    own = getattr(trainer.lightning_module, "accumulate", None)
    return trainer.accumulate_grad_batches if own is None else int(own)
