"""What callbacks of an evaluation share: the same work in validation and test, and what is there.

A callback that looks at outputs is an `EvaluationCallback`: it starts, adds batch after batch, and
finishes, whichever command evaluates.
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
    """Does the same in ``validate``, ``test`` and the validations of ``fit``.

    Args:
        every_n: In ``fit``, at the first validation and at every n-th after it; a resumed run goes
            on counting.

    Raises:
        ValueError: ``every_n`` is below 1.
    """

    def __init__(self, every_n: int = 1) -> None:
        super().__init__()
        at_least_one(self, every_n=every_n)
        self.every_n = every_n
        self._validations = 0  # that have ended

    @abstractmethod
    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An evaluation begins, or Lightning's sanity check."""

    @abstractmethod
    def _add(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        dataloader_idx: int,
    ) -> None:
        """A batch is done; no process waits for another here."""

    @abstractmethod
    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """All are done: the place to bring processes together."""

    def _due(self, trainer: Trainer) -> bool:
        """Whether this evaluation is one to work in; to be asked once, at its start."""
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
        # Only now: one that is broken off is done again by the continued run, under its own number.
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._validations += 1

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring together what all processes saw."""
        self._finish(trainer, pl_module, "test")

    # Not in `state_dict`: Lightning would refuse two metrics of one class in words of its own,
    # before `setup` can say which key to change.
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the number of validations, so that ``every_n`` goes on counting."""
        if self.every_n > 1:
            checkpoint["callbacks"][self.state_key] = {"validations": self._validations}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on counting."""
        state = checkpoint["callbacks"].get(self.state_key, {})
        self._validations = state.get("validations", 0)


def at_least_one(owner: object, **settings: int | None) -> None:
    """Check arguments that count something; None is for those without a limit.

    Args:
        owner: Whose they are.
        settings: By name.

    Raises:
        ValueError: One is below 1.
    """
    for key, value in settings.items():
        if value is not None and value < 1:
            raise ValueError(f"`{key}` of {type(owner).__name__} is {value}; it must be at least 1")


def evaluated_datasets(trainer: Trainer) -> list[Any]:
    """The datasets of the evaluation that runs now, in the order of ``dataloader_idx``.

    Raises:
        TypeError: A dataset without ``name``, ``scale`` or ``keys``.
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
    """The image that a step returned.

    Raises:
        TypeError: The step returned something else than ``{"sr": image}``.
    """
    if not isinstance(outputs, Mapping) or "sr" not in outputs:
        raise TypeError(
            f"the model's step returned {type(outputs).__name__}; "
            'expected {"sr": image}, the image (B, 3, H, W) in [0, 1]'
        )
    return outputs["sr"]


def all_callbacks(trainer: Trainer) -> list[Callback]:
    """The trainer's callbacks, which Lightning leaves untyped."""
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def predicted_dataset(trainer: Trainer, index: int) -> Any:
    """The dataset of the ``index``-th loader of ``predict``; None of one without."""
    loaders: Any = trainer.predict_dataloaders
    loader = loaders[index] if isinstance(loaders, list | tuple) else loaders
    return getattr(loader, "dataset", None)


def steps_done(trainer: Trainer, pl_module: LightningModule) -> int:
    """Updates of the main optimiser so far; ``global_step`` also counts those of a second one."""
    steps = getattr(pl_module, "steps", None)
    return trainer.global_step if steps is None else int(steps)


def accumulated(trainer: Trainer) -> int:
    """Batches whose gradients make one step; methods with two optimisers count them themselves."""
    own = getattr(trainer.lightning_module, "accumulate", None)
    return trainer.accumulate_grad_batches if own is None else int(own)
