"""Private names of Lightning, and a change to jsonargparse, in one file.

Each function names the public behaviour that is missing.
``tests/commands/test_lightning_internals.py`` fails when Lightning changes a private name.
"""

from __future__ import annotations

from typing import Any

from jsonargparse.typing import Path
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from files.yaml import checked_text

CONFIGURATIONS = (".yaml", ".yml", ".json")


def read_configurations_alone() -> None:
    """Let jsonargparse read a file only where its name says that it is a configuration.

    It reads whichever file a value names. The text of an image would then choose classes that are
    run, a video would be read whole, and a pipe would wait for ever. There is no switch.
    """
    if Path.__init__ is not _read_configuration:
        Path.__init__ = _read_configuration  # type: ignore[method-assign]
        Path.read_text = _read_text  # type: ignore[method-assign]


_open_path = Path.__init__


def _read_configuration(self: Path, path: Any, mode: str = "fr", *args: Any, **kwargs: Any) -> None:
    """Open a path as jsonargparse does, but refuse to read files of other endings."""
    is_read = "r" in mode and "f" in mode
    if is_read and isinstance(path, str) and not path.lower().endswith(CONFIGURATIONS):
        raise TypeError(f"{path!r} is not a configuration: none of {CONFIGURATIONS} ends its name")
    _open_path(self, path, mode, *args, **kwargs)


def _read_text(self: Path) -> str:
    """Return the text of a configuration; an error names the file, as that of ``read_yaml``."""
    return checked_text(self.absolute)


class _EpochLoop(_TrainingEpochLoop):
    """A training loop whose processes do not ask each other for signals in each step.

    For that, Lightning's makes the host wait for the device twice a step.
    """

    def _broadcast_sigterm_tensor(self) -> None:
        return


def replace_signal_handlers(trainer: Trainer, signals: Any) -> None:
    """Let ``signals`` install and restore the signal handlers in place of Lightning's own.

    It also replaces the loop of an epoch, which would synchronise for signals in each step. There
    is no public switch for either.

    Args:
        trainer: The trainer, before it runs.
        signals: An object with ``register_signal_handlers()``, called when the trainer starts,
            ``teardown()``, called when it ends, and ``received_sigterm``, which must stay False:
            Lightning would end the run at it.
    """
    trainer._signal_connector = signals
    trainer.fit_loop.epoch_loop = _EpochLoop(trainer, trainer.min_steps, trainer.max_steps)


def launch(trainer: Trainer, model: LightningModule) -> None:
    """Start the processes that Lightning starts itself, and create the process group.

    Lightning does both when the trainer runs, and finds them done then.

    Args:
        trainer: A trainer of several processes, before it runs.
        model: What it will train; FSDP tells it the devices.

    Raises:
        ValueError: If its processes would not begin with the command line.
    """
    trainer.strategy.connect(model)
    launcher = trainer.strategy.launcher
    if launcher is None:  # torchrun or srun has started them
        trainer.strategy.setup_environment()
    elif isinstance(launcher, _SubprocessScriptLauncher):
        launcher.launch(trainer.strategy.setup_environment)
    else:
        raise ValueError(
            "trainer.strategy starts processes by fork or spawn: remove its start_method"
        )


def set_logged_step(trainer: Trainer) -> None:
    """Log at ``trainer.global_step``: Lightning's own step is one off after some resumes."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
