"""The command line: a LightningCLI whose runs live in one directory and fail readably."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.base import all_callbacks
from callbacks.progress import Progress
from callbacks.results import Results
from callbacks.sample_grid import SampleGrid
from callbacks.writer import Writer
from commands.checkpoints import Checkpoints
from commands.errors import ConfigurationError
from commands.output import prepare_output, process_rank
from commands.parser import DESCRIPTIONS, LINKS, Parser
from commands.run_directory import RunDirectory, RunOptions
from commands.tracebacks import sentence_of
from commands.weights import find_weights
from datamodules.base import SRDataModule
from degradations.base import Degradation
from lightning_modules.base import ImageModel

log = logging.getLogger(__name__)


class EnlargerCLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict`` from YAML.

    Args:
        args: Arguments as typed after ``main.py``.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self._asked = next((arg for arg in args if arg in DESCRIPTIONS), None)
        super().__init__(
            ImageModel,
            SRDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=None,
            load_from_checkpoint_support=False,
            parser_class=Parser,
            parser_kwargs={
                "allow_abbrev": False,
                "description": "Enlarger: train, compare and run image super-resolution methods.",
                **{
                    name: {"description": text, "allow_abbrev": False}
                    for name, text in DESCRIPTIONS.items()
                },
            },
            args=list(args),
        )

    # ----------------------------------------------------------------------------------- the parser

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        # As Lightning's, with our own words on what each of them does; and only the one that is
        # asked for gets its arguments, which take the time of all parsing to add.
        self._subcommand_parsers: dict[str, LightningArgumentParser] = {}
        subcommands = parser.add_subcommands()
        for name, text in DESCRIPTIONS.items():
            make = self._prepare_subcommand_parser if name == self._asked else _empty_parser
            subparser = make(Trainer, name, **kwargs.get(name, {}))
            self._subcommand_parsers[name] = subparser
            subcommands.add_subcommand(name, subparser, help=text)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The seed, an integer: everything random follows from it; chance has no say."""
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=0,
            help="Seed of the run: initial weights, order, crops, degradations, noise.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The groups beside Lightning's own, and the links."""
        parser.add_subclass_arguments(
            Degradation,
            "degradation",
            required=False,
            help="Makes LR pictures from HR ones, on the training device.",
        )
        parser.add_class_arguments(RunOptions, "run")
        # Both in all commands, each idle in the others, so that one file serves them all.
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(Writer, "writer")
        for target, source in LINKS.items():
            parser.link_arguments(source, target)
        parser.link_arguments("degradation", "data.init_args.degradation", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        # Lightning lets the hyper-parameters of a checkpoint beat the command line; here the
        # command line wins.
        return

    # -------------------------------------------------------------------------------------- the run

    def before_instantiate_classes(self) -> None:
        """Find the run's directory; decide what is resumed, before anything is built."""
        config = self.config[self.subcommand]
        options = config.run
        if options.name is None:
            options.name = _experiment_name(config)
        self.run = RunDirectory(Path(options.root) / options.name)
        self.resumed_from: Path | None = None
        self.config_dump: dict[str, Any] | None = None
        if self.subcommand != "fit" or config.trainer.fast_dev_run:
            return
        self.config_dump = self._dump()
        if options.overwrite:
            self.resumed_from = self.run.begin_from(config.ckpt_path)
            if process_rank() == 0:
                self.run.move_aside()
        else:
            self.run.check(self.config_dump, options.change)
            self.resumed_from = self.run.resume_from(config.ckpt_path)

    def _dump(self) -> dict[str, Any]:
        parser = self._parser(self.subcommand)
        config = self.config[self.subcommand].clone()
        config.run.change = config.run.overwrite = False  # said once, not a property of the run
        dumped: dict[str, Any] = yaml.safe_load(
            parser.dump(config, skip_unset=False, format="yaml")
        )
        dumped.pop("config", None)
        return dumped

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """The trainer, with the run's directory, logger and closing callbacks."""
        trainer = self.config_init[self.subcommand].trainer
        if trainer.default_root_dir is not None:
            raise ConfigurationError(
                "trainer.default_root_dir is the run's directory here: set run.root and run.name "
                "instead"
            )
        trainer.default_root_dir = str(self.run.path)
        trainer.use_distributed_sampler = False  # the plan shares the samples out itself
        if trainer.logger in (None, True):
            trainer.logger = False if self.subcommand == "predict" else _tensorboard(self.run.path)
        given = trainer.callbacks or []
        trainer.callbacks = list(given) if isinstance(given, list | tuple) else [given]
        trainer.callbacks += self._own_callbacks(trainer)
        trainer.plugins = _plugins(trainer.plugins)
        idle = {"writer"} if self.subcommand == "fit" else {"checkpoint"}
        if trainer.enable_checkpointing is False:
            idle.add("checkpoint")
        parser = self._parser(self.subcommand)
        parser.callback_keys = [key for key in parser.callback_keys if key not in idle]
        return super().instantiate_trainer(**kwargs)

    def _own_callbacks(self, trainer: Namespace) -> list[Any]:
        own: list[Any] = []
        if trainer.enable_progress_bar is not False and not any(
            isinstance(c, ProgressBar) for c in trainer.callbacks
        ):
            own.append(Progress())
        if self.subcommand != "predict" and not any(
            isinstance(c, Results) for c in trainer.callbacks
        ):
            own.append(Results())
        return own

    def after_instantiate_classes(self) -> None:
        """Put the right weights into the model, or refuse to go on without."""
        for callback in all_callbacks(self.trainer):
            if isinstance(callback, Checkpoints):
                callback.resumed_from = self.resumed_from
                callback.config = self.config_dump
        if self.subcommand == "fit":
            if self.resumed_from is not None:
                log.info("resuming the run in %s from %s", self.run.path, self.resumed_from)
            if self.model.weights is not None and (self.resumed_from is None or self._freezes()):
                self.model.load_weights(find_weights(self.model.weights, self.model.scale))
        else:
            self._load_trained_weights()

    def _freezes(self) -> bool:
        # What does not train is in no checkpoint: it comes from where training took it.
        return set(self.model.checkpoint_keys()) != set(self.model.state_dict())

    def _load_trained_weights(self) -> None:
        config = self.config[self.subcommand]
        given = self.model.weights
        if given is not None and self._freezes():
            self.model.load_weights(find_weights(given, self.model.scale))
        if config.ckpt_path is not None:
            self.model.load_weights(config.ckpt_path)
            return
        trained = None if self._given_for_this_command(given) else self.run.trained_weights()
        if trained is not None:
            path, why = trained
            log.info("%s uses %s of the run in %s", self.subcommand, why, self.run.path)
            self.model.load_weights(path)
        elif given is not None:
            self.model.load_weights(find_weights(given, self.model.scale))
        elif self.model.needs_weights:
            raise ConfigurationError(
                f"{self.subcommand} needs trained weights, and there are none in "
                f"{self.run.checkpoints}: run fit first "
                "(with the same --config or --run.name), or name a file with "
                "--model.init_args.weights"
            )

    def _given_for_this_command(self, weights: str | None) -> bool:
        # Weights that training started from are no answer to «which weights are the result?»;
        # others are.
        return weights is not None and weights != self.run.trained_config().get(
            "model.init_args.weights"
        )

    def after_fit(self) -> None:
        """Say where to look."""
        self._say_where_to_look()

    def after_test(self) -> None:
        """Say where to look."""
        for callback in all_callbacks(self.trainer):
            if isinstance(callback, SampleGrid) and callback.path is not None:
                log.info("LR, bicubic, ours and HR side by side: %s", callback.path)
        self._say_where_to_look()

    def _say_where_to_look(self) -> None:
        if isinstance(self.trainer.logger, TensorBoardLogger):
            log.info("curves and pictures: tensorboard --logdir %s", self.run.path)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["ckpt_path"] = str(self.resumed_from) if self.resumed_from else None
        kwargs["weights_only"] = True
        if subcommand in ("validate", "test"):
            kwargs["verbose"] = (
                False  # our table has the protocol and the weights beside the numbers
            )
        if subcommand == "predict":
            kwargs["return_predictions"] = False  # the writer has them
        return kwargs


def run(args: list[str]) -> None:
    """Run one command; an error of the configuration is printed as one sentence.

    Args:
        args: Arguments as typed after ``main.py``; ``--debug`` anywhere shows the whole traceback
            of an error.

    Raises:
        SystemExit: With status 2 after an error of the configuration, 143 after SIGTERM.
    """
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    prepare_output()
    try:
        EnlargerCLI(args)
        if dist.is_available() and dist.is_initialized():
            # Or its threads are still there when the interpreter ends, which now and then aborts.
            dist.destroy_process_group()
    except SIGTERMException:  # a SystemExit of status 0, as if the run were finished
        log.warning("stopped by SIGTERM; the same command continues")
        raise SystemExit(128 + signal.SIGTERM) from None
    except Exception as error:
        sentence = None if debug else sentence_of(error)
        if sentence is None:
            raise
        sys.stderr.write(f"error: {sentence}\n")
        raise SystemExit(2) from error


def _empty_parser(trainer: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
    return Parser(**kwargs)


def _experiment_name(config: Namespace) -> str:
    if config.config:
        return Path(str(config.config[0])).stem
    return str(config.model.class_path).rpartition(".")[2].lower()


def _tensorboard(directory: Path) -> Any:
    return TensorBoardLogger(str(directory), name="", version="tensorboard")


def _plugins(plugins: Any) -> Any:
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    if not SLURMEnvironment.detect() or plugins:
        return plugins
    # Lightning's own requeueing saves from inside a signal handler, at any moment of a step; ours
    # resumes from the last checkpoint when SLURM starts the job again.
    return [SLURMEnvironment(auto_requeue=False)]
