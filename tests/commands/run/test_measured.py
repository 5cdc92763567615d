"""What a number was measured on, without datasets of ours."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import Mock

from lightning.pytorch import Trainer

from commands.run.measured import measured_on


def test_a_dataset_of_torchs_has_a_name_alone() -> None:
    loader = SimpleNamespace(dataset=SimpleNamespace(name="photos"))
    trainer = Mock(Trainer, val_dataloaders=[loader], testing=False, callbacks=[])

    few, more = (
        measured_on(trainer, "val/loss", {"trainer": {"limit_val_batches": limit}})
        for limit in (1, 2)
    )

    assert few != more
