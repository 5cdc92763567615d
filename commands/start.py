"""The last part of the preflight, which needs the data and the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from callbacks.scalar_record import ScalarRecord
from commands.checkpoint_files import list_checkpoints
from commands.checkpoints import Checkpoints
from commands.directions import check_directions, correct_restored
from commands.meeting import Facts
from commands.preflight import room
from datamodules.base import SRDataModule

if TYPE_CHECKING:
    from commands.company import Ranks

COPIES = 4  # weights, averages, and Adam's two moments


class Start(Callback):
    """Compare the data of all processes, and check that checkpoints fit on the disk.

    Args:
        ranks: The processes of this run.
        facts: Returns the facts to compare first, if processes could not meet before because
            Lightning had not started them yet.
    """

    def __init__(self, ranks: Ranks, facts: Callable[[], Facts]) -> None:
        self.ranks, self.facts = ranks, facts

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Meet after the setup of the data module, before training.

        Raises:
            ConfigurationError: If the processes differ, or the disk is full.
        """
        if not self.ranks.met and self.ranks.may_meet(trainer):
            self.ranks.meet(trainer, self.facts())
        facts: Facts = {"data": data_facts(trainer), "refusal": None}
        if trainer.is_global_zero and stage == "fit":
            facts["refusal"] = _no_room(trainer, pl_module)
        self.ranks.compare("data", facts)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the direction of all monitored values.

        Raises:
            ConfigurationError: If one is monitored in the wrong direction.
        """
        check_directions(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Correct restored directions, and begin the record of scalars."""
        correct_restored(trainer)
        for logger in trainer.loggers:
            if isinstance(logger, ScalarRecord):
                logger.begin(trainer.global_step)


def data_facts(trainer: Trainer) -> dict[str, Any]:
    """Return what determines the order of training samples; long values as hashes."""
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, SRDataModule) or trainer.state.fn != "fit":
        return {}
    return {name: _short(value) for name, value in data._order().items()}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else hashlib.sha256(text.encode()).hexdigest()[:16]


def _no_room(trainer: Trainer, module: nn.Module) -> str | None:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, Checkpoints) and not vars(trainer)["fast_dev_run"]:
            folder = Path(trainer.default_root_dir) / "checkpoints"
            present = list_checkpoints(folder)
            size = present[0].stat().st_size if present else _expected_size(module)
            kept = callback.keep_last + callback.keep_best + 1
            return room(folder, size, max(1, kept - len(present)))
    return None


def _expected_size(module: nn.Module) -> int:
    return COPIES * sum(
        p.numel() * p.element_size() for p in module.parameters() if p.requires_grad
    )
