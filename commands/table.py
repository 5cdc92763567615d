"""What sets each command apart: one entry of ``COMMANDS``, which ``EnlargerCLI`` goes through.

A new command is a file with its work, an entry here, and its line in ``names.py``.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
)
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.evaluation import all_callbacks
from callbacks.predict.predictions import outputs_in
from callbacks.results.results import Results
from callbacks.validation_images import ValidationImages
from commands.check.findings import print_findings
from commands.check.first_step import Check
from commands.check.needs import find_missing
from commands.cli import Command, EnlargerCLI
from commands.encode import Encode, EncodeOptions
from commands.errors import ConfigurationError
from commands.export.about import Origin
from commands.export.export import ExportOptions, export, model_alone
from commands.run.directory import LOCK_SECONDS, alone_in
from commands.run.weights import keep_trained_scale
from datamodules.sources.folder import Outputs
from files.paths import expand_path

log = logging.getLogger(__name__)


# --------------------------------------------------------------------------------- fit and check


def train(cli: EnlargerCLI) -> None:
    """Train, from the checkpoint that is resumed or from the first step."""
    cli.trainer.fit(
        cli.model, datamodule=cli.datamodule, ckpt_path=cli.resumed_from, weights_only=True
    )


def fit(cli: EnlargerCLI) -> None:
    """Train; log why training ended early, and where the curves are."""
    train(cli)
    for callback in all_callbacks(cli.trainer):
        # Lightning logs it only with `verbose`, which also logs each improvement.
        if isinstance(callback, EarlyStopping) and cli.trainer.should_stop:
            log.warning("training ended early: %s", callback.stopping_reason_message)
    if isinstance(cli.trainer.logger, TensorBoardLogger):
        log.info("curves and images: tensorboard --logdir %s", cli.run.path)


def lock_run(cli: EnlargerCLI) -> AbstractContextManager[Any] | None:
    """Return the lock of the run's folder; None for a dry run, which writes nothing."""
    if cli.config.trainer.fast_dev_run:
        return None
    return cli.run.alone(LOCK_SECONDS)


def check_needs(cli: EnlargerCLI) -> None:
    """Print what a training lacks, such as files of weights, on the first process.

    Raises:
        ConfigurationError: If the training cannot do without.
    """
    if not cli.world.is_first:
        return
    broken = print_findings(find_missing(cli.config_dump or {}))
    if broken:
        cli.refuse(
            ConfigurationError(f"{broken} of what fit needs are missing: they are listed above")
        )


# ------------------------------------------------------------------------------ validate and test


def evaluate(cli: EnlargerCLI) -> None:
    """Validate or test once for each of ``run.seeds``; once if the method draws no noise.

    LR images are the same each time: they follow from ``data.init_args.degradation_seed``. The
    evaluation of seed ``n`` equals that of ``--seed_everything n`` bit for bit.
    """
    evaluate_once = cli.trainer.test if cli.name == "test" else cli.trainer.validate
    count = cli.config.run.seeds
    results = [c for c in all_callbacks(cli.trainer) if isinstance(c, Results)]
    for keeper in results:
        keeper.repeats = count
    for number in range(count):
        seed = cli.config.seed_everything + number
        if count > 1:
            log.info("seed %d (%d of %d)", seed, number + 1, count)
        cli.model.set_noise_seed(seed)
        # Our table has protocol and weights, too.
        evaluate_once(cli.model, datamodule=cli.datamodule, verbose=False)
        if count > 1 and not any(keeper.drew_noise for keeper in results):
            log.warning(
                "run.seeds is %d, but %s drew no noise: all seeds give the same result, so it "
                "was evaluated once",
                count,
                type(cli.model).__name__,
            )
            return


# --------------------------------------------------------------------------------------- predict


def predict(cli: EnlargerCLI) -> None:
    """Enlarge; the writer stores the predictions."""
    cli.trainer.predict(cli.model, cli.datamodule, return_predictions=False)


def keep_scale(cli: EnlargerCLI) -> None:
    """Build the method for the scale of its run, if its weights are a checkpoint of a run."""
    if cli.weights.checkpoint is not None:
        keep_trained_scale(cli.weights.checkpoint, cli.config)


def set_up_writer(cli: EnlargerCLI) -> None:
    """Tell the writer the configuration, and the images which outputs are written already."""
    writer = cli.config_init.writer
    writer.config = cli.dump()
    folder = writer.output_folder(cli.trainer)
    cli.datamodule.outputs = Outputs(folder, partial(outputs_in, folder))


def lock_outputs(cli: EnlargerCLI) -> AbstractContextManager[Any]:
    """Return the lock of the folder of the outputs."""
    folder = cli.config.writer.folder
    path = cli.run.path / "predict" if folder is None else expand_path(folder, "writer.folder")
    return alone_in(Path(path), LOCK_SECONDS)


# ---------------------------------------------------------------------------------------- export


def export_run(cli: EnlargerCLI) -> None:
    """Write the weights for other programs."""
    origin = Origin(cli.run.path, cli.dump(), cli.weights_file, cli.precision)
    export(cli.model, cli.config_init.export, origin)


COMMANDS = {
    "fit": Command(
        run=fit,
        fits=True,
        leaves_run=True,
        resumes=True,
        locks=lock_run,
        usual=(ProgressBar, ModelSummary, Results, LearningRateMonitor, ValidationImages),
    ),
    "validate": Command(run=evaluate, usual=(ProgressBar, Results)),
    "test": Command(run=evaluate, usual=(ProgressBar, Results)),
    "predict": Command(
        run=predict,
        prepares=keep_scale,
        sets_up=set_up_writer,
        locks=lock_outputs,
        usual=(ProgressBar,),
    ),
    "check": Command(
        run=train,
        fits=True,
        resumes=True,
        prepares=check_needs,
        adds=lambda cli: [Check(cli.signals)],
        usual=(ProgressBar, ModelSummary),
    ),
    "encode": Command(
        run=train,
        fits=True,
        options=EncodeOptions,
        adds=lambda cli: [Encode(cli.config_init.encode, cli.config_dump or {})],
    ),
    "export": Command(run=export_run, options=ExportOptions, adapts=model_alone),
}
