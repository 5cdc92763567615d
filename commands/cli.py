"""EnlargerCLI: the LightningCLI, and one command from its arguments to its exit status."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    Checkpoint,
    EarlyStopping,
    LearningRateMonitor,
    ModelSummary,
    OnExceptionCheckpoint,
    ProgressBar,
)
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger

from callbacks.evaluation import all_callbacks, is_distributed
from callbacks.predict.predictions import outputs_in
from callbacks.predict.writer import Writer
from callbacks.report.report import Report
from callbacks.report.scalar_record import with_record
from callbacks.results.results import Results
from callbacks.tensorboard import TensorBoard
from callbacks.training.progress import Progress
from commands.arguments.command_line import help_words, read
from commands.arguments.parser import (
    DESCRIPTIONS,
    LINKS,
    Parser,
    check_own_options,
    parse,
    parser_settings,
    printed,
)
from commands.check import Check, Checked
from commands.distributed.callbacks import Start, Stops
from commands.distributed.heartbeat import Ranks
from commands.distributed.launch import own_plugins, own_strategy, refuse_unsupported
from commands.distributed.preflight import start_facts
from commands.encode import Encode, EncodeOptions
from commands.errors import ConfigurationError, RepeatedError, TemporaryError, print_error
from commands.export.export import ExportOptions, Origin, export, model_alone, of_run
from commands.lightning_internals import CommandsCLI, load_only_given_checkpoint
from commands.process import keep_compiled_code, keep_freed_memory, prepare_output, raise_limit
from commands.run.arithmetic import arithmetic
from commands.run.checkpoints import Checkpoints, is_foreign_checkpoint_callback
from commands.run.directory import (
    RunDirectory,
    RunOptions,
    alone_in,
    experiment_name,
    run_folder,
)
from commands.run.files import fingerprint, why_unseen
from commands.run.loggers import keep_earlier_metrics, name_loggers
from commands.run.weights import find_weights, freezes, load_trained, needed_files, weights_are_read
from commands.signals import Stopped
from commands.tracebacks import sentence_of, status_of
from commands.world import agree
from datamodules.base import SRDataModule
from datamodules.sources.folder import Outputs
from degradations.base import Degradation
from files.numbers import NonNegativeInt
from files.paths import expand_path
from files.waits import WAITS
from files.yaml_loader import plain_yaml
from lightning_modules.base import ImageModel, SuperResolver
from lightning_modules.sampling.tiling import Tiling

log = logging.getLogger(__name__)


def evaluate_seeds(
    trainer: Trainer, model: ImageModel, seeds: Sequence[int], evaluate: Callable[[], object]
) -> None:
    """Evaluate once for each seed; only once for a method that draws no noise.

    LR images are the same each time: they follow from ``data.init_args.degradation_seed``. The
    evaluation of seed ``n`` equals that of ``--seed_everything n`` bit for bit.

    Args:
        trainer: The trainer, whose ``Results`` collect the evaluations.
        model: The model to evaluate.
        seeds: At least one seed.
        evaluate: Runs ``validate`` or ``test`` once.
    """
    results = [c for c in all_callbacks(trainer) if isinstance(c, Results)]
    for keeper in results:
        keeper.repeats = len(seeds)
    for number, seed in enumerate(seeds, start=1):
        if len(seeds) > 1:
            log.info("seed %d (%d of %d)", seed, number, len(seeds))
        model.set_noise_seed(seed)
        evaluate()
        if len(seeds) > 1 and not any(keeper.drew_noise for keeper in results):
            log.warning(
                "run.seeds is %d, but %s drew no noise: all seeds give the same result, so it was "
                "evaluated once",
                *(len(seeds), type(model).__name__),
            )
            return


DRY_RUN_COMMANDS = ("check", "encode")  # set up as fit, but leave no run


def without_outputs(trainer: Namespace, given: list[Any], own_bar: bool) -> list[Any]:
    """Make a trainer write neither logs nor checkpoints.

    Args:
        trainer: Configuration of the trainer; changed in place.
        given: Callbacks of the configuration.
        own_bar: Whether the command shows its own progress bar.

    Returns:
        The callbacks that remain.
    """
    if trainer.logger is not False:
        # Some callbacks, such as LearningRateMonitor, require a logger.
        trainer.logger = DummyLogger()
    if own_bar:
        trainer.enable_progress_bar = trainer.enable_model_summary = False
        trainer.enable_checkpointing = False
        return [c for c in given if not isinstance(c, Checkpoint | ProgressBar)]
    # `check` ends by an exception. Others remain, because a resumed run restores their states.
    return [c for c in given if not _saves_on_exception(c)]


def _saves_on_exception(callback: Any) -> bool:
    own = getattr(callback, "save_on_exception", False)  # of a ModelCheckpoint
    return isinstance(callback, OnExceptionCheckpoint) or bool(own)


def _part(needed: dict[str, Path], scale: float, argument: str, name: str) -> Path:
    # The method keeps it, and callbacks copy methods: so it is no method of the command.
    key = f"model.init_args.{argument}"
    return needed.get(key) or find_weights(name, scale, key)


VISIBLE_SECONDS = 60.0  # in which a shared disk shows a new file to all nodes
LIKE_FIT = (*DRY_RUN_COMMANDS, "export")  # export reads the configuration of a run of fit


class EnlargerCLI(CommandsCLI):
    """``fit``, ``validate``, ``test``, ``predict`` and the project's own commands, from YAML.

    Args:
        args: Arguments as typed after ``main.py``.
    """

    descriptions = DESCRIPTIONS
    like_fit = LIKE_FIT
    parser_type = Parser

    def __init__(self, args: Sequence[str]) -> None:
        args = of_run(args)
        self.command = next((arg for arg in args if arg in DESCRIPTIONS), None)
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
                parser_kwargs=parser_settings(),
                args=list(args),
            )

    # ----------------------------------------------------------------------------------- the parser

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the commands, each with the trainer arguments that are not options."""
        commands: dict[str, set[str]] = CommandsCLI.subcommands()
        return {**commands, **{name: commands["fit"] for name in LIKE_FIT}}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Read the command line into one dictionary, and parse that once."""
        words = list(args)
        if self.command is None or words[0] != self.command:
            super().parse_arguments(parser, words)
            return
        asks = help_words(words[1:])
        if asks is not None:
            super().parse_arguments(parser, [self.command, *asks])
            return
        line = read(words[1:])
        own = self.command_parsers[self.command]
        config = parse(own, line)
        if line.prints is not None:
            sys.stdout.write(printed(own, config, line.prints))
            raise SystemExit(0)
        whole = {"subcommand": self.command, self.command: config}
        self.config = Namespace(whole)  # type: ignore[no-untyped-call]

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
        if self.command == "encode":
            parser.add_class_arguments(EncodeOptions, "encode")
        if self.command == "export":
            parser.add_class_arguments(ExportOptions, "export")
        # In all commands, though each is used by some, so that one file serves all of them.
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(Writer, "writer")
        for target, source in LINKS.items():
            parser.link_arguments(source, target)
        parser.link_arguments("degradation", "data.init_args.degradation", apply_on="instantiate")

    # -------------------------------------------------------------------------------------- the run

    def before_instantiate_classes(self) -> None:
        """Find the run directory, and decide what is resumed, before anything is built."""
        config = self.config[self.subcommand]
        if self.subcommand == "export":
            self.precision = config.trainer.precision
            model_alone(config)
        self.world = agree(config.trainer, command=str(self.subcommand))
        options = config.run
        if options.name is None:
            options.name = experiment_name(config)
        self.run = RunDirectory(run_folder(options.root, options.name))
        if not config.trainer.fast_dev_run:  # it writes nothing
            self.run.check_place(str(self.subcommand))
        self.fits = self.subcommand in ("fit", *DRY_RUN_COMMANDS)
        self.config_dump = self._dump() if self.fits else None  # as given: without derived paths
        name_loggers(config.trainer.logger, options.name)
        if config.ckpt_path is not None:
            config.ckpt_path = expand_path(config.ckpt_path, "ckpt_path")
        self.ranks = Ranks(
            60 * options.preflight_minutes, options.heartbeat_seconds, options.lost_after_seconds
        )
        self.ranks.signals.command = str(self.subcommand)
        WAITS.limit = 60 * options.wait_minutes
        own = weights_are_read(self.run, config, self.fits)
        self._needed = needed_files(config, own)
        self.resumed_from: Path | None = None
        self._refusal: ConfigurationError | TemporaryError | None = None
        if self.subcommand == "predict":
            folder = config.writer.folder
            if folder is not None:
                folder = Path(expand_path(folder, "writer.folder"))
            folder = folder or self.run.path / "predict"
            self._lock(alone_in(folder, options.lost_after_seconds))
        if self.subcommand == "fit" and not config.trainer.fast_dev_run:
            self._lock(self.run.alone(options.lost_after_seconds))
        if self.subcommand in ("fit", "check") and not config.trainer.fast_dev_run:
            if not options.overwrite and self.config_dump is not None:
                self.run.check(self.config_dump, options.change)
            try:
                choose = self.run.begin_from if options.overwrite else self.run.resume_from
                self.resumed_from = choose(config.ckpt_path, self.config_dump or {})
            except ConfigurationError as error:  # the other processes wait for it
                self._refusal = self._refusal or error

    def _lock(self, folder: AbstractContextManager[Any]) -> None:
        if self.world.is_first:
            try:
                self._until_end.enter_context(folder)
            except TemporaryError as error:  # the other processes wait for it
                self._refusal = error

    def _dump(self) -> dict[str, Any]:
        parser = self.command_parsers[str(self.subcommand)]
        config = self.config[self.subcommand].clone()
        config.run.change = config.run.overwrite = False  # for one start, not a property of the run
        # What was parsed is valid; checking it again would take longer than dumping it.
        text = parser.dump(config, skip_unset=False, skip_validation=True)
        dumped: dict[str, Any] = plain_yaml(text)
        dumped.pop("config", None)
        return dumped

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build the trainer with the run directory, logger and our callbacks."""
        trainer = self.config_init[self.subcommand].trainer
        if trainer.default_root_dir is not None:
            raise ConfigurationError(
                "trainer.default_root_dir is the run directory here: set run.root and run.name "
                "instead"
            )
        trainer.default_root_dir = str(self.run.path)
        trainer.use_distributed_sampler = False  # our samplers split the samples over ranks
        trainer.devices, trainer.num_nodes = self.world.devices, self.world.num_nodes
        if trainer.strategy == "auto":  # otherwise an object or a name
            trainer.strategy = self.world.strategy
        trainer.strategy = own_strategy(
            trainer.strategy, trainer.accelerator, several=self.world.size > 1
        )
        given = trainer.callbacks or []
        given = list(given) if isinstance(given, list | tuple) else [given]
        refuse_unsupported(trainer, given)
        if self.subcommand in DRY_RUN_COMMANDS:
            given = without_outputs(trainer, given, own_bar=self.subcommand != "check")
        if not self.fits:  # their points would lie at step 0 of the training's curves
            trainer.logger = False
        elif trainer.logger in (None, True):
            trainer.logger = TensorBoard(str(self.run.path))
        if self.subcommand == "fit" and not trainer.barebones:
            trainer.logger = with_record(trainer.logger, self.run.path)
        trainer.callbacks = [
            Start(self.ranks, self._facts, self.config_dump),
            Stops(self.ranks),
            *given,
        ]
        trainer.callbacks += self._own_callbacks(trainer)
        trainer.plugins = own_plugins(trainer.plugins, trainer.strategy, self.world)
        idle = {"writer"} if self.fits else {"checkpoint"}
        if trainer.enable_checkpointing is False:
            idle.add("checkpoint")
        parser = self.command_parsers[str(self.subcommand)]
        parser.callback_keys = [key for key in parser.callback_keys if key not in idle]
        made = super().instantiate_trainer(**kwargs)
        self.world.check(made)
        load_only_given_checkpoint(made)
        vars(made)["callbacks"].sort(key=is_foreign_checkpoint_callback)
        self.ranks.signals.attach(made)
        return made

    def _facts(self) -> dict[str, Any]:
        return start_facts(self.config_dump or self._dump(), self.trainer.world_size)

    def _own_callbacks(self, trainer: Namespace) -> list[Any]:
        if self.subcommand == "encode":
            return [Encode(self.config_init[self.subcommand].encode, self.config_dump or {})]
        if self.subcommand == "export":
            return []
        own: list[Any] = [Check(self.ranks)] if self.subcommand == "check" else []
        if trainer.enable_progress_bar is not False and not any(
            isinstance(c, ProgressBar) for c in trainer.callbacks
        ):
            own.append(Progress())
        if self.fits and trainer.enable_model_summary is not False and not trainer.barebones:
            if not any(isinstance(c, ModelSummary) for c in trainer.callbacks):
                own.append(ModelSummary())
            trainer.enable_model_summary = False  # or Lightning's line that there is one
        if self.subcommand not in ("predict", *DRY_RUN_COMMANDS):
            given = [type(callback) for callback in trainer.callbacks]
            kinds: tuple[type[Callback], ...] = (Results, Report)
            if self.subcommand == "fit" and not trainer.barebones:  # which has no logger
                kinds = (*kinds, LearningRateMonitor)
            own += [kind() for kind in kinds if not any(issubclass(g, kind) for g in given)]
        return own

    def after_instantiate_classes(self) -> None:
        """Meet the other processes, and load the right weights into the model."""
        with self._together():
            self._meet()
        if self.fits:
            check_own_options(self.model, self.trainer)
        self.model.set_noise_seed(self.config[self.subcommand].seed_everything)
        if isinstance(self.model, SuperResolver):
            self.model.set_tiling(self.config_init[self.subcommand].tiling)
        for callback in all_callbacks(self.trainer):
            if isinstance(callback, Checkpoints):
                callback.resumed_from = self.resumed_from
                callback.config = self.config_dump if self._keeps_config() else None
                callback.off = self.subcommand in DRY_RUN_COMMANDS
            if isinstance(callback, Writer) and self.subcommand == "predict":
                callback.config = self._dump()
                folder = callback.output_folder(self.trainer)
                self.datamodule.outputs = Outputs(folder, partial(outputs_in, folder))
        self.model.load_parts(partial(_part, self._needed, self.model.scale))
        if self.fits:
            if self.resumed_from is not None:
                log.info("resuming the run in %s from %s", self.run.path, self.resumed_from)
            given, begins = self.model.initial_weights, self.resumed_from is None
            if given is not None and (begins or freezes(self.model)):
                self.model.load_weights(find_weights(given, self.model.scale))
            # Last: a refused start must not move the run.
            overwrites = self._keeps_config() and self.config[self.subcommand].run.overwrite
            if overwrites and self.world.is_first and self.run.path.exists():
                if isinstance(self.datamodule, SRDataModule):
                    self.datamodule.setup("fit")  # refuses images that are missing
                    self.datamodule.keep_open("fit")
                self.run.move_aside()
        else:
            ckpt_path = self.config[self.subcommand].ckpt_path
            self.weights_file = load_trained(self.model, self.run, str(self.subcommand), ckpt_path)

    def _keeps_config(self) -> bool:
        return self.subcommand == "fit" and not self.config[self.subcommand].trainer.fast_dev_run

    def _meet(self) -> None:
        refusal = None if self._refusal is None else str(self._refusal)
        if not self.ranks.may_meet(self.trainer):
            if self._refusal is not None:
                raise self._refusal
            return
        own = self.resumed_from
        place = None if own is None else (str(own), fingerprint(own))
        first = self.trainer.is_global_zero
        facts = {**self._facts(), "place": place, "refusal": refusal if first else None}
        try:
            chosen = self.ranks.meet(self.trainer, facts)[0]["place"]
        except ConfigurationError as error:
            if isinstance(self._refusal, TemporaryError):  # its status means: start again
                raise TemporaryError(str(error)) from error
            raise
        self.resumed_from, unseen = None, None
        if chosen is not None:
            path, digest = chosen
            self.resumed_from = Path(path)
            if place != (path, digest):
                unseen = why_unseen(self.resumed_from, digest, VISIBLE_SECONDS)
        self.ranks.compare("checkpoint", {"refusal": unseen})

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        # The other processes learn how this one ends.
        try:
            yield
        except (Stopped, Checked):
            self.ranks.leave()
            raise
        except BaseException as error:
            blamed = self.ranks.fail(error, status_of(error))
            if blamed is not None:
                raise blamed from error
            raise

    def run_command(self, command: str) -> None:
        """Run a command; other processes learn of its failure."""
        config = self.config[command]
        with (
            self._together(),
            arithmetic(config.run, config.trainer, self.trainer, command, self.datamodule),
        ):
            keep_earlier_metrics(self.trainer)
            if command == "export":
                origin = Origin(self.run.path, self._dump(), self.weights_file, self.precision)
                export(self.model, self.config_init[command].export, origin)
            else:
                super().run_command(command)
        self.ranks.finish()

    # Lightning calls these two instead of the trainer's.
    def validate(self, **arguments: Any) -> None:
        """``Trainer.validate``, once for each of ``run.seeds``."""
        self._each_seed(partial(self.trainer.validate, **arguments))

    def test(self, **arguments: Any) -> None:
        """``Trainer.test``, once for each of ``run.seeds``."""
        self._each_seed(partial(self.trainer.test, **arguments))

    def _each_seed(self, evaluate: Callable[[], object]) -> None:
        config = self.config[self.subcommand]
        seeds = range(config.seed_everything, config.seed_everything + config.run.seeds)
        evaluate_seeds(self.trainer, self.model, seeds, evaluate)

    def after_fit(self) -> None:
        """Log why training ended early, and where the curves are."""
        for callback in all_callbacks(self.trainer):
            # Lightning logs it only with `verbose`, which also logs each improvement.
            if isinstance(callback, EarlyStopping) and self.trainer.should_stop:
                log.warning("training ended early: %s", callback.stopping_reason_message)
        if isinstance(self.trainer.logger, TensorBoardLogger):
            log.info("curves and images: tensorboard --logdir %s", self.run.path)

    def command_arguments(self, command: str) -> dict[str, Any]:
        """Return the arguments of the trainer method, with the checkpoint chosen here."""
        kwargs = super().command_arguments(command)
        kwargs["ckpt_path"] = str(self.resumed_from) if self.resumed_from else None
        kwargs["weights_only"] = True
        if command in ("validate", "test"):
            kwargs["verbose"] = False  # our table has protocol and weights, too
        if command == "predict":
            kwargs["return_predictions"] = False  # the writer stores them
        return kwargs


def run(args: list[str]) -> None:
    """Run one command; print a configuration error as one sentence.

    Args:
        args: Arguments as typed after ``main.py``; ``--debug`` shows the traceback of any error.

    Raises:
        SystemExit: With status 2 after a configuration error, 75 if another process is lost or
            trains the same run, 128 plus the signal's number after a signal.
    """
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    prepare_output()
    keep_freed_memory()
    keep_compiled_code()
    raise_limit()
    status = 0
    try:
        EnlargerCLI(args)
    except Checked:  # `check` has printed its table
        pass
    except Stopped as stopped:
        log.warning("%s; the same command continues", stopped)
        status = stopped.status
    except (KeyboardInterrupt, SystemExit) as ended:
        # Lightning turns Ctrl-C before the first step, and a second one, into SystemExit.
        if isinstance(ended, SystemExit) and not isinstance(ended.__context__, KeyboardInterrupt):
            raise
        sys.stderr.write("stopped by SIGINT\n")
        status = 128 + signal.SIGINT
        if is_distributed():
            _end(status)
    except RepeatedError as repeated:
        _end(repeated.status)
    except Exception as error:
        sentence = None if debug else sentence_of(error)
        if sentence is None and not is_distributed():
            raise
        if sentence is None:
            traceback.print_exc()
        else:
            print_error(sentence)
        if is_distributed():
            _end(status_of(error))
        raise SystemExit(status_of(error)) from error
    if dist.is_available() and dist.is_initialized():
        # Its threads would outlive the interpreter, which sometimes aborts then.
        dist.destroy_process_group()
    if status:
        raise SystemExit(status)


def _end(status: int) -> NoReturn:
    # The others may be lost, or wait for this process: communication with them would hang.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
