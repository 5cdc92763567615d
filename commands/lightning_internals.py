"""Private names of Lightning, in one file.

Each function names the public behaviour that is missing. Runs in ``tests/commands`` fail when
Lightning changes the private name; for what only rare runs need, ``test_lightning_internals.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import ModelParallelStrategy

TESTED = "2.6"


class CommandsCLI(LightningCLI):
    """A ``LightningCLI`` with more commands, whose other methods may be overridden publicly.

    ``LightningCLI`` has no public way to add a command that runs a trainer method of another name,
    to describe a command, or to build only the parser that is needed.
    """

    descriptions: ClassVar[Mapping[str, str]] = {}  # help of each command, in order
    like_fit: ClassVar[tuple[str, ...]] = ()  # commands with the arguments of fit
    parser_type: ClassVar[type[LightningArgumentParser]] = LightningArgumentParser
    command: str | None = None  # typed; only this command gets its arguments

    @property
    def command_parsers(self) -> dict[str, LightningArgumentParser]:
        """Parser of each command, by name."""
        return self._subcommand_parsers

    def run_command(self, command: str) -> None:
        """Run a command; a subclass may run something else."""
        super()._run_subcommand("fit" if command in self.like_fit else command)

    def command_arguments(self, command: str) -> dict[str, Any]:
        """Return the arguments of the trainer method; a subclass may change them."""
        return dict(super()._prepare_subcommand_kwargs(command))

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        # Adding the arguments of one command takes most of the time of parsing.
        self._subcommand_parsers: dict[str, LightningArgumentParser] = {}
        subcommands = parser.add_subcommands()
        for name, text in self.descriptions.items():
            settings = kwargs.get(name, {})
            if name == self.command:
                subparser = self._prepare_subcommand_parser(Trainer, name, **settings)
            else:
                subparser = self.parser_type(**settings)
            self._subcommand_parsers[name] = subparser
            subcommands.add_subcommand(name, subparser, help=text)

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        method = "fit" if subcommand in self.like_fit else subcommand
        parser = super()._prepare_subcommand_parser(klass, method, **kwargs)
        self._subcommand_method_arguments[subcommand] = self._subcommand_method_arguments[method]
        return parser

    def _parse_ckpt_path(self) -> None:
        # Lightning lets the hyper-parameters of a checkpoint override the command line; here the
        # command line wins.
        return

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_command(subcommand)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return self.command_arguments(str(self.subcommand))


def load_only_given_checkpoint(trainer: Trainer) -> None:
    """Make Lightning load the checkpoint that it is given, and none otherwise.

    Lightning looks for checkpoints of SLURM's requeueing and of ``OnExceptionCheckpoint``, and
    reads words such as ``best``, without a public switch. ``run_directory.py`` alone decides what
    is resumed.

    Args:
        trainer: The trainer, before it runs.

    Raises:
        RuntimeError: If Lightning chooses checkpoints in another way.
    """
    connector = trainer._checkpoint_connector
    _require(connector, "_parse_ckpt_path", "choose checkpoints")
    connector._parse_ckpt_path = lambda _, given, **__: given  # type: ignore[method-assign]


def replace_signal_handlers(
    trainer: Trainer, install: Callable[[], None], restore: Callable[[], None]
) -> None:
    """Install our signal handlers where Lightning would install its own.

    There is no public switch. Without Lightning's handlers its processes need not ask each other
    in each step either, for which its loop would make the host wait for the device twice a step.

    Args:
        trainer: The trainer, before it runs.
        install: Called when the trainer starts.
        restore: Called when the trainer ends.

    Raises:
        RuntimeError: If Lightning shares signals in another way.
    """
    connector, loop = trainer._signal_connector, trainer.fit_loop.epoch_loop
    _require(connector, "register_signal_handlers", "handle signals")
    _require(loop, "_broadcast_sigterm_tensor", "share signals between processes")
    connector.register_signal_handlers = install  # type: ignore[method-assign]
    connector.teardown = restore  # type: ignore[method-assign]
    loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def dump_checkpoint(trainer: Trainer) -> dict[str, Any]:
    """Return the content of a checkpoint; ``Trainer.save_checkpoint`` would also write it."""
    return dict(trainer._checkpoint_connector.dump_checkpoint(weights_only=False))


def logged_values(trainer: Trainer) -> dict[str, Any]:
    """Return the values logged so far; ``Trainer.callback_metrics`` would compute new ones."""
    return dict(trainer._logger_connector._callback_metrics)


def restore_logged_values(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Add values to ``Trainer.callback_metrics``, which is read-only.

    Args:
        trainer: The trainer, before training.
        values: Values by name.
    """
    device = trainer.strategy.root_device
    tensors = {name: torch.tensor(value, device=device) for name, value in values.items()}
    trainer._logger_connector._callback_metrics.update(tensors)


def set_logged_step(trainer: Trainer) -> None:
    """Log at ``trainer.global_step``: Lightning's own step is one off after some resumes."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def end_restart(trainer: Trainer) -> None:
    """Make a continued epoch end as any other: else plateau schedules are skipped once.

    The public ``restarting`` of the loop also changes its inner loops.
    """
    trainer.fit_loop._restarting = False


def run_validation(trainer: Trainer, ends_epoch: bool) -> None:
    """Validate within ``fit``, as Lightning does after a step; ``Trainer.validate`` cannot.

    Args:
        trainer: The trainer, between two steps.
        ends_epoch: Whether the validation is the one at the end of an epoch.
    """
    loop, connector = trainer.fit_loop.epoch_loop, trainer._logger_connector
    first = connector._first_loop_iter
    trainer.validating = True
    loop.val_loop.restarting = False
    loop.val_loop.run()
    trainer.training = True
    connector._first_loop_iter = first
    loop._update_learning_rates("step", update_plateau_schedulers=True)
    if ends_epoch:
        loop._update_learning_rates("epoch", update_plateau_schedulers=True)


def set_data_parallel_size(strategy: ModelParallelStrategy, size: int) -> None:
    """Set the number of processes that share the parameters; it is known after construction."""
    strategy._data_parallel_size = size


def _require(owner: object, name: str, purpose: str) -> None:
    if not hasattr(owner, name):
        raise RuntimeError(
            f"this version of Lightning has another way to {purpose}; Enlarger was tested with "
            f"{TESTED}"
        )
