"""EnlargerCLI: the LightningCLI, and one command from its arguments to its exit status."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
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
    ProgressBar,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger

from callbacks.evaluation import all_callbacks, is_distributed
from callbacks.predict.predictions import outputs_in
from callbacks.predict.writer import Writer
from callbacks.results.results import Results
from callbacks.tensorboard import FOLDER, TensorBoard
from callbacks.training.progress import progress_bar
from callbacks.validation_images import ValidationImages
from commands.arguments.parser import Parser, link, parse, refuse_misread
from commands.check.findings import print_findings
from commands.check.first_step import Check, Checked
from commands.check.needs import missing
from commands.distributed.callbacks import Start, Stops
from commands.distributed.heartbeat import Ranks
from commands.distributed.launch import own_plugins, own_strategy, refuse_unsupported
from commands.distributed.preflight import start_facts
from commands.encode import Encode, EncodeOptions
from commands.errors import ConfigurationError, RepeatedError, TemporaryError, print_error
from commands.export.about import Origin
from commands.export.export import ExportOptions, export, model_alone
from commands.interface.named import with_model
from commands.names import ABOUT
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
from commands.run.weights import (
    find_weights,
    freezes,
    keep_trained_scale,
    load_trained,
    needed_files,
    weights_are_read,
)
from commands.signals import Stopped
from commands.tracebacks import sentence_of, status_of
from commands.world import agree
from datamodules.base import SRDataModule
from datamodules.sources.folder import Outputs
from degradations.base import Degradation
from files.numbers import NonNegativeInt
from files.paths import expand_path
from files.waits import WAITS
from files.yaml import plain_yaml
from lightning_modules.base import ImageModel, SuperResolver
from lightning_modules.sampling.tiling import Tiling

log = logging.getLogger(__name__)
DRY_RUN_COMMANDS = ("check", "encode")  # set up as fit, but leave no run
VISIBLE_SECONDS = 60.0  # in which a shared disk shows a new file to all nodes


class EnlargerCLI(LightningCLI):
    """``fit``, ``validate``, ``test``, ``predict`` and the project's own commands, from YAML.

    Args:
        args: A command and its arguments, as typed after ``main.py``.
    """

    def __init__(self, args: Sequence[str]) -> None:
        words = with_model(args)
        self.command = words[0]
        self.fits = self.command in ("fit", *DRY_RUN_COMMANDS)
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
                    "prog": f"main.py {self.command}",
                    "description": ABOUT[self.command],
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
        if self.command == "encode":
            parser.add_class_arguments(EncodeOptions, "encode")
        if self.command == "export":
            parser.add_class_arguments(ExportOptions, "export")
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
        is_dry = config.trainer.fast_dev_run  # it writes nothing
        if self.command == "export":
            self.precision = config.trainer.precision
            model_alone(config)
        self.world = agree(config.trainer, command=self.command)
        if options.name is None:
            options.name = experiment_name(config)
        self.run = RunDirectory(run_folder(options.root, options.name))
        if not is_dry:
            self.run.check_place(self.command)
        self.config_dump = self._dump() if self.fits else None  # as given: without derived paths
        name_loggers(config.trainer.logger, options.name)
        if config.ckpt_path is not None:
            config.ckpt_path = expand_path(config.ckpt_path, "ckpt_path")
        self.ranks = Ranks(60 * options.preflight_minutes, options.lost_after_seconds)
        self.ranks.signals.command = self.command
        WAITS.limit = 60 * options.wait_minutes
        self._refusal: Exception | None = None
        if self.command == "check" and self.world.is_first:
            self._check_needs()
        reads_weights = weights_are_read(self.run, config, self.fits)
        if self.command == "predict" and not reads_weights:
            keep_trained_scale(self.run, config)
        try:
            self._weights_files = needed_files(config, reads_weights)
        except (OSError, ValueError) as error:
            if self.command != "fit":
                raise
            hint = "main.py check, with the same arguments, lists all that is missing"
            raise ConfigurationError(f"{error}; {hint}") from error
        self.resumed_from: Path | None = None
        if self.command == "predict":
            self._lock(alone_in(self._output_folder(), options.lost_after_seconds))
        if self.command == "fit" and not is_dry:
            self._lock(self.run.alone(options.lost_after_seconds))
        if self.command in ("fit", "check") and not is_dry:
            self._find_checkpoint()

    def _check_needs(self) -> None:
        """Print what is missing.

        Raises:
            ConfigurationError: If the training cannot do without.
        """
        broken = print_findings(missing(self.config_dump or {}))
        if broken:
            refusal = ConfigurationError(
                f"{broken} of what fit needs are missing: they are listed above"
            )
            if self.world.size == 1:
                raise refusal
            self._refusal = refusal  # the other processes wait for it

    def _output_folder(self) -> Path:
        folder = self.config.writer.folder
        if folder is None:
            return self.run.path / "predict"
        return Path(expand_path(folder, "writer.folder"))

    def _lock(self, folder: AbstractContextManager[Any]) -> None:
        if self.world.is_first:
            try:
                self._until_end.enter_context(folder)
            except TemporaryError as error:  # the other processes wait for it
                self._refusal = error

    def _find_checkpoint(self) -> None:
        """Decide which checkpoint the run continues from."""
        options, settings = self.config.run, self.config_dump or {}
        if not options.overwrite:
            self.run.check(settings, options.change)
        choose = self.run.begin_from if options.overwrite else self.run.resume_from
        try:
            self.resumed_from = choose(self.config.ckpt_path, settings)
        except (OSError, ValueError) as error:  # the other processes wait for it
            self._refusal = self._refusal or error

    def _dump(self) -> dict[str, Any]:
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
        if self.command in DRY_RUN_COMMANDS:
            callbacks = without_outputs(options, callbacks, own_bar=self.command != "check")
        self._choose_logger(options)
        # Before the bar, which counts what is enlarged: the writer lets that happen piece by piece.
        writer = [] if self.fits else [self.config_init.writer]
        options.callbacks = [
            Start(self.ranks, self._facts, self.config_dump),
            Stops(self.ranks),
            *callbacks,
            *writer,
            *self._default_callbacks(options, callbacks),
        ]
        if self.fits and options.enable_checkpointing is not False:
            options.callbacks.append(self.config_init.checkpoint)
        trainer = Trainer(**vars(options))
        self.world.check(trainer)
        # Those that save by themselves follow ours, which sets the counters.
        vars(trainer)["callbacks"].sort(key=is_foreign_checkpoint_callback)
        self.ranks.signals.attach(trainer)
        return trainer

    def _choose_logger(self, options: Namespace) -> None:
        if not self.fits:  # their points would lie at step 0 of the training's curves
            options.logger = False
        elif options.logger in (None, True):
            options.logger = TensorBoard(str(self.run.path), name="", version=FOLDER)

    def _facts(self) -> dict[str, Any]:
        return start_facts(self.config_dump or self._dump(), self.trainer.world_size)

    def _default_callbacks(self, options: Namespace, callbacks: Sequence[Any]) -> list[Callback]:
        """Return the callbacks that a command adds where the configuration has no such one."""
        if self.command == "export":
            return []
        if self.command == "encode":
            return [Encode(self.config_init.encode, self.config_dump or {})]

        def is_missing(kind: type[Callback]) -> bool:
            return not any(isinstance(callback, kind) for callback in callbacks)

        added: list[Callback] = []
        if self.command == "check":
            added.append(Check(self.ranks))
        if options.enable_progress_bar is not False and is_missing(ProgressBar):
            added.append(progress_bar())
        if self.fits and options.enable_model_summary is not False and not options.barebones:
            if is_missing(ModelSummary):
                added.append(ModelSummary())
            options.enable_model_summary = False  # or Lightning's line that there is one
        if self.command in ("predict", "check"):
            return added
        kinds: list[type[Callback]] = [Results]
        if self.command == "fit" and options.logger is not False:
            kinds += [LearningRateMonitor, ValidationImages]
        return added + [kind() for kind in kinds if is_missing(kind)]

    def after_instantiate_classes(self) -> None:
        """Meet the other processes, and load the right weights into the model."""
        with self._together():
            self._meet()
            self._set_up_model()

    def _set_up_model(self) -> None:
        self.model.set_noise_seed(self.config.seed_everything)
        if isinstance(self.model, SuperResolver):
            self.model.set_tiling(self.config_init.tiling)
            self.model.may_use_bf16 = self.config.trainer.precision is None
        self._set_up_callbacks()
        self.model.load_parts(partial(_part, self._weights_files, self.model.scale))
        if self.fits:
            self._begin_training()
        else:
            checkpoint = self.config.ckpt_path
            self.weights_file = load_trained(self.model, self.run, self.command, checkpoint)

    def _set_up_callbacks(self) -> None:
        for callback in all_callbacks(self.trainer):
            if isinstance(callback, Checkpoints):
                callback.resumed_from = self.resumed_from
                callback.config = self.config_dump if self._keeps_config() else None
                callback.off = self.command in DRY_RUN_COMMANDS
            if isinstance(callback, Writer) and self.command == "predict":
                callback.config = self._dump()
                folder = callback.output_folder(self.trainer)
                self.datamodule.outputs = Outputs(folder, partial(outputs_in, folder))

    def _begin_training(self) -> None:
        """Load initial weights; move an earlier run aside, if it is to be overwritten."""
        if self.resumed_from is not None:
            log.info("resuming the run in %s from %s", self.run.path, self.resumed_from)
        weights = self.model.initial_weights
        if weights is not None and (self.resumed_from is None or freezes(self.model)):
            file = find_weights(weights, self.model.scale)
            self.model.load_weights(file, self.model.weights_strict)
        # Last: a refused start must not move the run.
        overwrites = self._keeps_config() and self.config.run.overwrite
        if overwrites and self.world.is_first and self.run.path.exists():
            if isinstance(self.datamodule, SRDataModule):
                self.datamodule.setup("fit")  # refuses images that are missing
                self.datamodule.keep_open("fit")
            self.run.move_aside()

    def _keeps_config(self) -> bool:
        return self.command == "fit" and not self.config.trainer.fast_dev_run

    def _meet(self) -> None:
        refusal = self._refusal
        if not self.ranks.may_meet(self.trainer):
            if refusal is not None:
                raise refusal
            return
        place = None
        if self.resumed_from is not None:
            place = (str(self.resumed_from), fingerprint(self.resumed_from))
        facts = {**self._facts(), "place": place, "refusal": None}
        if refusal is not None and self.trainer.is_global_zero:
            facts["refusal"] = str(refusal)
        try:
            chosen = self.ranks.meet(self.trainer, facts)[0]["place"]
        except ConfigurationError as error:
            if isinstance(refusal, TemporaryError):  # its status means: start again
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
            self.ranks.finish()
            raise
        except BaseException as error:
            launcher = self.trainer.strategy.launcher
            if launcher is not None and not self.ranks.met:
                launcher.kill(signal.SIGKILL)  # those that it started would wait for this process
            blamed = self.ranks.fail(error, status_of(error))
            if blamed is not None:
                raise blamed from error
            raise

    def run_command(self) -> None:
        """Run the command; other processes learn of its failure."""
        config, trainer = self.config, self.trainer
        switches = arithmetic(config.run, config.trainer, trainer, self.command, self.datamodule)
        with self._together(), switches:
            keep_earlier_metrics(trainer)
            if self.command == "export":
                origin = Origin(self.run.path, self._dump(), self.weights_file, self.precision)
                export(self.model, self.config_init.export, origin)
            elif self.command == "predict":
                # The writer stores the predictions.
                trainer.predict(self.model, self.datamodule, return_predictions=False)
            elif self.fits:
                trainer.fit(
                    self.model,
                    datamodule=self.datamodule,
                    ckpt_path=self.resumed_from,
                    weights_only=True,
                )
            else:
                self._evaluate()
            if self.command == "fit":
                self._tell_of_training()
        failure = self.ranks.finish()
        if failure is not None:
            raise TemporaryError(*failure)

    def _evaluate(self) -> None:
        """Validate or test once for each of ``run.seeds``; once if the method draws no noise.

        LR images are the same each time: they follow from ``data.init_args.degradation_seed``. The
        evaluation of seed ``n`` equals that of ``--seed_everything n`` bit for bit.
        """
        evaluate = self.trainer.test if self.command == "test" else self.trainer.validate
        count = self.config.run.seeds
        results = [c for c in all_callbacks(self.trainer) if isinstance(c, Results)]
        for keeper in results:
            keeper.repeats = count
        for number in range(count):
            seed = self.config.seed_everything + number
            if count > 1:
                log.info("seed %d (%d of %d)", seed, number + 1, count)
            self.model.set_noise_seed(seed)
            # Our table has protocol and weights, too.
            evaluate(self.model, datamodule=self.datamodule, verbose=False)
            if count > 1 and not any(keeper.drew_noise for keeper in results):
                log.warning(
                    "run.seeds is %d, but %s drew no noise: all seeds give the same result, so it "
                    "was evaluated once",
                    count,
                    type(self.model).__name__,
                )
                return

    def _tell_of_training(self) -> None:
        """Log why training ended early, and where the curves are."""
        for callback in all_callbacks(self.trainer):
            # Lightning logs it only with `verbose`, which also logs each improvement.
            if isinstance(callback, EarlyStopping) and self.trainer.should_stop:
                log.warning("training ended early: %s", callback.stopping_reason_message)
        if isinstance(self.trainer.logger, TensorBoardLogger):
            log.info("curves and images: tensorboard --logdir %s", self.run.path)


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


def _part(files: dict[str, Path], scale: float, argument: str, name: str) -> Path:
    # The method keeps it, and callbacks copy methods: so it is no method of the command.
    key = f"model.init_args.{argument}"
    return files.get(key) or find_weights(name, scale, key)


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
    keep_freed_memory(predicts=args[:1] == ["predict"])
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
