"""EnlargerCLI: the LightningCLI, and one command from its arguments to its exit status."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    Checkpoint,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers.logger import DummyLogger

from callbacks.evaluation import is_distributed, on_all, on_first
from callbacks.predict.writer import Writer
from callbacks.tensorboard import FOLDER, TensorBoard
from callbacks.training.progress import progress_bar
from callbacks.validation_images import ValidationImages
from commands.arguments.parser import Parser, link, parse, refuse_misread
from commands.check.first_step import Checked
from commands.distributed.callbacks import Start, Stops
from commands.distributed.launch import own_plugins, own_strategy, refuse_unsupported
from commands.distributed.preflight import compare, start_facts
from commands.distributed.ranks import LAST_SECONDS, LOST, Ranks, seconds_after_launcher
from commands.errors import ConfigurationError, TemporaryError
from commands.interface.named import expand_model_option
from commands.lightning_internals import replace_signal_handlers
from commands.names import ABOUT
from commands.process import (
    keep_compiled_code,
    keep_freed_memory,
    prepare_output,
    raise_open_files_limit,
)
from commands.run.arithmetic import arithmetic
from commands.run.checkpoints import Checkpoints, FinishesStep
from commands.run.directory import (
    RunDirectory,
    RunOptions,
    experiment_name,
    run_folder,
)
from commands.run.files import fingerprint, wait_for
from commands.run.loggers import keep_earlier_metrics, kept_ids, name_loggers
from commands.run.weights import (
    Choice,
    choose_weights,
    find_weights,
    has_frozen_parts,
    load_trained,
    needed_files,
)
from commands.signals import Signals, Stopped, is_interrupt
from commands.tracebacks import cause_of_parser_error, print_reason, status_of
from commands.world import agree
from datamodules.base import SRDataModule
from degradations.base import Degradation
from files.numbers import NonNegativeInt
from files.paths import expand_path
from files.waits import WAITS
from files.yaml import plain_yaml
from lightning_modules.base import ImageModel, SuperResolver
from lightning_modules.sampling.tiling import Tiling

log = logging.getLogger(__name__)
VISIBLE_SECONDS = 60.0  # in which a shared disk shows a new file to all nodes


def do_nothing(cli: EnlargerCLI) -> None:
    """Do nothing: most commands need no such step."""


@dataclass(frozen=True)
class Command:
    """A command of ``main.py`` that takes a configuration.

    Args:
        run: Does the work; all is built then, with the right weights.
        fits: Whether it begins as a training does, and not with trained weights.
        leaves_run: Whether it writes checkpoints, curves and the configuration.
        resumes: Whether it begins where the newest checkpoint of the run ends.
        options: Class of its own options, in a group of its name.
        adapts: Changes the parsed configuration before anything else.
        prepares: Called before anything is built; the run and its folder are known.
        sets_up: Called when all is built, before trained weights are loaded.
        locks: Returns what keeps other commands out of the folder that it writes.
        adds: Returns callbacks of its own.
        usual: Callbacks that it adds where the configuration has none of their class.
    """

    run: Callable[[EnlargerCLI], Any]
    fits: bool = False
    leaves_run: bool = False
    resumes: bool = False
    options: type | None = None
    adapts: Callable[[Any], Any] = do_nothing
    prepares: Callable[[EnlargerCLI], Any] = do_nothing
    sets_up: Callable[[EnlargerCLI], Any] = do_nothing
    locks: Callable[[EnlargerCLI], AbstractContextManager[Any] | None] = do_nothing
    adds: Callable[[EnlargerCLI], Sequence[Callback]] = lambda cli: ()
    usual: Sequence[type[Callback]] = ()


class EnlargerCLI(LightningCLI):
    """``fit``, ``validate``, ``test``, ``predict`` and the project's own commands, from YAML.

    Args:
        args: A command and its arguments, as typed after ``main.py``.
        commands: All commands, by name.
    """

    def __init__(self, args: Sequence[str], commands: Mapping[str, Command]) -> None:
        words = expand_model_option(args)
        self.name = words[0]
        self.command = commands[self.name]
        with contextlib.ExitStack() as self._until_end:
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
                    "prog": f"main.py {self.name}",
                    "description": ABOUT[self.name],
                },
                args=words[1:],
                run=False,
            )
            self.run_command()

    # ----------------------------------------------------------------------------------- the parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line; a mistake in it is raised."""
        refuse_misread(args)
        self.config = parse(parser, args)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed, which must be an integer of at least 0."""
        parser.add_argument(
            "--seed_everything",
            type=NonNegativeInt,
            default=0,
            help="Seed of all random numbers: weights, order, crops, degradations, noise.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our groups and links to those of Lightning."""
        parser.add_subclass_arguments(
            Degradation,
            "degradation",
            required=False,
            help="Makes LR images from HR images, on the training device.",
        )
        parser.add_class_arguments(RunOptions, "run")
        parser.add_class_arguments(Tiling, "tiling")
        if self.command.options is not None:
            parser.add_class_arguments(self.command.options, self.name)
        # In all commands, though each is used by some, so that one file serves all of them.
        parser.add_class_arguments(Checkpoints, "checkpoint")
        parser.add_class_arguments(Writer, "writer")
        link(parser)
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="A checkpoint in place of the run's own; for fit, one that a new run begins with.",
        )

    # -------------------------------------------------------------------------------------- the run

    def before_instantiate_classes(self) -> None:
        """Find the run directory, and decide what is resumed, before anything is built."""
        config = self.config
        options = config.run
        self.precision = config.trainer.precision
        self.command.adapts(config)
        self.world = agree(config.trainer, command=self.name)
        if options.name is None:
            options.name = experiment_name(config)
        self.run = RunDirectory(run_folder(options.root, options.name))
        is_dry = config.trainer.fast_dev_run  # it writes nothing
        if not is_dry:
            self.run.check_place(self.name)
        # As given: without derived paths.
        self.config_dump = self.dump() if self.command.fits else None
        ids = {} if options.overwrite else kept_ids(self.run.path)
        name_loggers(config.trainer.logger, options.name, ids)
        if config.ckpt_path is not None:
            config.ckpt_path = expand_path(config.ckpt_path, "ckpt_path")
        WAITS.limit = 60 * options.wait_minutes
        self.ranks = Ranks(WAITS.limit)
        self.signals = Signals(self.name)
        self._refusal: Exception | None = None
        if not self.command.fits:
            initial = config.model.init_args.get("weights")
            self.weights = choose_weights(self.run, initial, config.ckpt_path)
        self.command.prepares(self)
        self.resumed_from: Path | None = None
        lock = self.command.locks(self)
        if lock is not None and self.world.is_first:
            with self._refusing_errors():
                self._until_end.enter_context(lock)
        if self.command.resumes and not is_dry:
            self._find_checkpoint()
        if self.command.fits:
            self.weights = Choice(self.resumed_from)
        self._weights_files: dict[str, Path] = {}  # of the model's arguments, by key
        with self._refusing_errors():
            reads_weights = self.weights.checkpoint is None
            self._weights_files = needed_files(config, reads_weights)

    def refuse(self, refusal: Exception) -> None:
        """Raise an error; of several processes only once they have met.

        The others wait for this one: without it, they would not learn the reason.

        Args:
            refusal: The error.
        """
        if self.world.size == 1:
            raise refusal
        self._refusal = self._refusal or refusal

    @contextlib.contextmanager
    def _refusing_errors(self) -> Iterator[None]:
        """Raise an error of the block as ``refuse`` does."""
        try:
            yield
        except (OSError, ValueError, TemporaryError) as error:
            self.refuse(error)

    def _find_checkpoint(self) -> None:
        """Decide which checkpoint the run continues from."""
        options, settings = self.config.run, self.config_dump or {}
        if not options.overwrite:
            self.run.check(settings, options.change)
        choose = self.run.begin_from if options.overwrite else self.run.resume_from
        # The other processes continue from the one that the first process chooses.
        errors = self._refusing_errors() if self.world.is_first else suppress(OSError, ValueError)
        with errors:
            self.resumed_from = choose(self.config.ckpt_path, settings)

    def dump(self) -> dict[str, Any]:
        """Return the configuration of the command as plain values."""
        config = self.config.clone()
        config.run.change = config.run.overwrite = False  # for one start, not a property of the run
        # What was parsed is valid; checking it again would take longer than dumping it.
        text = self.parser.dump(config, skip_unset=False, skip_validation=True)
        content: dict[str, Any] = plain_yaml(text)
        content.pop("config", None)
        return content

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the run directory, logger and our callbacks."""
        options = self.config_init.trainer
        if options.default_root_dir is not None:
            raise ConfigurationError(
                "trainer.default_root_dir is the run directory here: set run.root and run.name "
                "instead"
            )
        options.default_root_dir = str(self.run.path)
        options.use_distributed_sampler = False  # our samplers split the samples over ranks
        options.devices, options.num_nodes = self.world.devices, self.world.num_nodes
        if options.strategy == "auto":  # otherwise an object or a name
            options.strategy = self.world.strategy
        options.strategy = own_strategy(options.strategy, options.accelerator, self.world.size)
        options.plugins = own_plugins(options.plugins, options.strategy, self.world)
        callbacks = options.callbacks or []
        callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
        refuse_unsupported(options, callbacks)
        fits = self.command.fits
        if fits and not self.command.leaves_run:
            own_bar = ProgressBar not in self.command.usual
            callbacks = without_outputs(options, callbacks, own_bar)
        self._choose_logger(options)
        # Before the bar, which counts what is enlarged: the writer lets that happen piece by piece.
        writer = [] if fits else [self.config_init.writer]
        options.callbacks = [
            Start(self.config_dump),
            *self._checkpoint_callbacks(options, callbacks),
            Stops(self.signals),
            *callbacks,
            *writer,
            *self.command.adds(self),
            *self._usual_callbacks(options, callbacks),
        ]
        trainer = Trainer(**vars(options))
        trainer.callbacks.append(FinishesStep())  # type: ignore[attr-defined]
        self.world.check(trainer)
        replace_signal_handlers(trainer, self.signals)
        return trainer

    def _checkpoint_callbacks(self, options: Namespace, callbacks: Sequence[Any]) -> list[Callback]:
        """Return what writes checkpoints, in place of Lightning's own."""
        if not self.command.fits or options.enable_checkpointing is False:
            return []
        options.enable_checkpointing = any(isinstance(c, Checkpoint) for c in callbacks)
        checkpoints: Checkpoints = self.config_init.checkpoint
        checkpoints.config = self.config_dump
        return [checkpoints] if self.command.leaves_run else []

    def _choose_logger(self, options: Namespace) -> None:
        """Set the trainer's logger: TensorBoard by default, and none but in a training."""
        if not self.command.fits:  # their points would lie at step 0 of the training's curves
            options.logger = False
        elif options.logger in (None, True):
            options.logger = TensorBoard(str(self.run.path), name="", version=FOLDER)

    def _usual_callbacks(self, options: Namespace, callbacks: Sequence[Any]) -> list[Callback]:
        """Return the usual callbacks of the command where the configuration has no such one."""
        off: set[type[Callback]] = set()
        if options.enable_progress_bar is False:
            off.add(ProgressBar)
        if options.enable_model_summary is False or options.barebones:
            off.add(ModelSummary)
        if options.logger is False:
            off |= {LearningRateMonitor, ValidationImages}
        if ModelSummary in self.command.usual and ModelSummary not in off:
            options.enable_model_summary = False  # or Lightning's line that there is one
        added: list[Callback] = []
        for kind in self.command.usual:
            if kind not in off and not any(isinstance(callback, kind) for callback in callbacks):
                added.append(progress_bar() if kind is ProgressBar else kind())
        return added

    def after_instantiate_classes(self) -> None:
        """Meet the other processes, and load the right weights into the model."""
        with self._telling_others():
            self._join_processes()
            self._set_up_model()

    def _set_up_model(self) -> None:
        """Set seed, tiling and precision of the model, and load its weights."""
        self.model.set_noise_seed(self.config.seed_everything)
        if isinstance(self.model, SuperResolver):
            self.model.set_tiling(self.config_init.tiling)
            self.model.may_use_bf16 = self.config.trainer.precision is None
        self.command.sets_up(self)
        self.model.load_parts(partial(_weights_of_part, self._weights_files, self.model.scale))
        if self.command.fits:
            self._begin_training()
        else:
            self.weights_file = load_trained(self.model, self.run, self.name, self.weights)

    def _begin_training(self) -> None:
        """Load initial weights; move an earlier run aside, if it is to be overwritten."""
        if self.resumed_from is not None:
            log.info("resuming the run in %s from %s", self.run.path, self.resumed_from)
        weights = self.model.initial_weights
        if weights is not None and (self.resumed_from is None or has_frozen_parts(self.model)):
            file = find_weights(weights, self.model.scale)
            self.model.load_weights(file, self.model.weights_strict)
        # Last: a refused start must not move the run.
        overwrites = self._writes_run() and self.config.run.overwrite
        if overwrites and self.world.is_first and self.run.path.exists():
            if isinstance(self.datamodule, SRDataModule):
                self.datamodule.setup("fit")  # refuses images that are missing
            self.run.move_aside()

    def _writes_run(self) -> bool:
        """Return whether checkpoints and configuration are written to the run's folder."""
        return self.command.leaves_run and not self.config.trainer.fast_dev_run

    def _join_processes(self) -> None:
        """Join the other processes; all continue from the checkpoint that the first one chose."""
        self.ranks.meet(self.trainer, self.model)
        on_all(self._raise_refusal)  # one that a process found before it joined
        if self.trainer.world_size == 1:
            return
        compare(start_facts(self.config_dump or self.dump()))
        chosen = on_first(self._checkpoint_and_hash)
        self.resumed_from = None
        if chosen is not None:
            path, digest = chosen
            self.resumed_from = path
            wait_for(path, digest, VISIBLE_SECONDS)

    def _raise_refusal(self) -> None:
        """Raise what ``refuse`` has kept."""
        if self._refusal is not None:
            raise self._refusal

    def _checkpoint_and_hash(self) -> tuple[Path, str] | None:
        """Return what the run resumes from, and its SHA-256; None for a new run."""
        path = self.resumed_from
        return None if path is None else (path, fingerprint(path))

    @contextlib.contextmanager
    def _telling_others(self) -> Iterator[None]:
        """Tell the other processes how this one ends, if the block raises anything.

        Raises:
            TemporaryError: If another process has failed first, and is the reason.
        """
        try:
            yield
        except BaseException as error:
            launcher = self.trainer.strategy.launcher
            if launcher is not None and not self.ranks.met:
                launcher.kill(signal.SIGKILL)  # those that it started would wait for this process
            told = KeyboardInterrupt("Ctrl-C") if is_interrupt(error) else error
            reason = self.ranks.fail(told, status_of(error))
            if reason is not None:
                raise reason from error
            raise

    def run_command(self) -> None:
        """Run the command; other processes learn of its failure."""
        config, trainer = self.config, self.trainer
        switches = arithmetic(config.run, config.trainer, trainer, self.name, self.datamodule)
        with self._telling_others(), switches:
            keep_earlier_metrics(trainer)
            try:
                with suppress(Checked):  # a dry run has seen enough, and succeeds
                    self.command.run(self)
            except Stopped:
                if self.name != "predict":  # whose other processes go on after a signal
                    self.ranks.wait_for_all()
                raise
            self.ranks.wait_for_all()


def without_outputs(options: Namespace, callbacks: Sequence[Any], own_bar: bool) -> list[Any]:
    """Make a trainer write neither logs nor checkpoints.

    Args:
        options: Configuration of the trainer; changed in place.
        callbacks: Callbacks of the configuration.
        own_bar: Whether the command shows its own progress bar.

    Returns:
        The callbacks that remain.
    """
    if options.logger is not False:
        # Some callbacks, such as LearningRateMonitor, require a logger.
        options.logger = DummyLogger()
    if own_bar:
        options.enable_progress_bar = options.enable_model_summary = False
        options.enable_checkpointing = False
        return [c for c in callbacks if not isinstance(c, Checkpoint | ProgressBar)]
    # `check` ends by an exception. Others remain, because a resumed run restores their states.
    return [c for c in callbacks if not getattr(c, "save_on_exception", False)]


def _weights_of_part(files: dict[str, Path], scale: float, argument: str, name: str) -> Path:
    """Return the file of an argument such as ``vae_weights``.

    It is no method of the class: the model keeps it, and callbacks copy the model.

    Args:
        files: Files that were found before, by key.
        scale: The model's.
        argument: The argument's name.
        name: Its value.
    """
    key = f"model.init_args.{argument}"
    return files.get(key) or find_weights(name, scale, key)


def run(args: Sequence[str], commands: Mapping[str, Command], debug: bool) -> None:
    """Run one command.

    An error is raised; but one of several processes ends here, without waiting for the others.

    Args:
        args: Arguments as typed after ``main.py``.
        commands: All commands, by name.
        debug: Whether to show the traceback of any error.

    Raises:
        SystemExit: After a signal, with status 128 plus its number.
    """
    prepare_output()
    keep_freed_memory(predicts=args[0] == "predict")
    keep_compiled_code()
    raise_open_files_limit()
    status = 0
    try:
        EnlargerCLI(args, commands)
    except Stopped as stopped:
        log.warning("%s; the same command continues", stopped)
        status = stopped.status
    except BaseException as error:
        is_exit = isinstance(error, SystemExit) and not is_interrupt(error)  # of a user's callback
        if is_exit or not is_distributed():
            raise
        if not print_reason(error, debug):
            traceback.print_exception(cause_of_parser_error(error))
        _exit_alone(status_of(error))
    if dist.is_available() and dist.is_initialized():
        # Its threads would outlive the interpreter, which sometimes aborts then.
        dist.destroy_process_group()
    if status:
        raise SystemExit(status)


def _exit_alone(status: int) -> NoReturn:
    """End this process at once: the others may be lost, or wait for it, so none is waited for."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # First the others must read why: a broken connection would give them another status. After a
    # lost connection none of them can.
    time.sleep(seconds_after_launcher() + (0 if status == LOST else LAST_SECONDS))
    os._exit(status)
