"""Lightning still has the private names that we replace: without them nothing would be replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonargparse.typing import Path as Configuration
from lightning.pytorch import Trainer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from commands.lightning_internals import read_configurations_alone


def test_lightning_still_has_the_private_names_that_we_replace() -> None:
    assert hasattr(_TrainingEpochLoop, "_broadcast_sigterm_tensor")
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    assert type(trainer.fit_loop.epoch_loop) is _TrainingEpochLoop
    assert hasattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped")
    for name in ("register_signal_handlers", "teardown", "received_sigterm"):
        assert hasattr(trainer._signal_connector, name)


def test_an_error_of_a_configuration_names_its_file(tmp_path: Path) -> None:
    read_configurations_alone()
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"a: \xe4")  # no UTF-8

    with pytest.raises(ValueError, match=r"mine\.yaml cannot be read as YAML"):
        Configuration(file, mode="fr").read_text()
