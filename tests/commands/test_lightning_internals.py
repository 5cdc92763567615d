"""Lightning still has the private names that we replace: without them nothing would be replaced."""

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


def test_jsonargparse_names_the_configuration_that_is_no_utf8(tmp_path: Path) -> None:
    """Its own error names no file, and a command may have several."""
    read_configurations_alone()  # replaces how jsonargparse's paths are read
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"a: \xe4")  # no UTF-8

    with pytest.raises(ValueError, match=r"mine\.yaml cannot be read as YAML"):
        Configuration(file, mode="fr").read_text()  # a file that can be read
