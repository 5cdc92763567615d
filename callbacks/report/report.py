"""The page of a run, `report.html`: numbers with protocols, curves, images to compare.

    python main.py report runs/a                  write the page of one run again
    python main.py report runs/a runs/b           several side by side, in ./report.html
    python main.py report runs/* --out all.html

A page is one file that needs no network. docs/report.md shows one.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from callbacks.evaluation import (
    EvaluationCallback,
    Stage,
    all_callbacks,
    evaluated_datasets,
    gather_on_first,
)
from callbacks.metrics.base import ImageMetric
from callbacks.provenance import Provenance, provenance
from callbacks.report.images import Evaluation, ImageStore, ReportImage, log_image, write_index
from callbacks.report.page import page
from callbacks.report.runs import read_run, read_runs
from callbacks.results.files import made_by, one_writer
from files.batch import Batch
from files.marks import PAGE
from files.method import method_of
from files.numbers import NonNegativeInt, PositiveInt
from files.owned import refuse_foreign, write_whole

log = logging.getLogger(__name__)
NAME = "report.html"
LOGGED = 4  # images of each dataset that loggers get


class Report(EvaluationCallback):
    """Keep images of each evaluation, and write ``report.html`` at the end of each command.

    Bicubic, output and HR of each dataset's first images are kept in ``report/images`` of the
    run's directory, lossless; in ``fit`` those of the latest validation. TensorBoard, W&B and
    MLflow get the first images of each validation in ``fit``, side by side. Errors never end a run:
    they are warnings.

    Args:
        limit: Images kept of each dataset, the first ones; 0 keeps none.
        side: Images larger than this are cut to the window of this side with the most detail.
    """

    def __init__(self, limit: NonNegativeInt = 8, side: PositiveInt = 384) -> None:
        super().__init__()
        self.limit = limit
        self.side = side
        self._store: ImageStore | None = None  # None: nothing is kept of this evaluation
        self._datasets: list[Any] = []
        self._wanted: list[list[str]] = []
        self._images: list[dict[str, ReportImage]] = []
        self._source: Provenance | None = None
        self._has_news = False  # whether there is anything new to show

    # ------------------------------------------------------------------------- Lightning's hooks

    # At the very end, when all metrics have their numbers.
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the processes' images together."""
        self._bring_together(trainer, pl_module, "validation")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the processes' images together."""
        self._bring_together(trainer, pl_module, "test")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there are curves."""
        self._has_news = True

    # In this hook, because results.json is written in an earlier one.
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the page."""
        if self._has_news and trainer.is_global_zero and not _trial(trainer):
            self._write(trainer)
        self._has_news = False

    # ---------------------------------------------------------------------------------- the work

    def _start(self, trainer: Trainer) -> None:
        self._datasets = []
        self._images = []
        if trainer.sanity_checking or _trial(trainer) or not self.limit:
            return
        try:
            self._datasets = evaluated_datasets(trainer)
        except (TypeError, ValueError) as error:  # metrics refuse them, a page need not
            log.warning("the report has no images: %s", error)
        self._wanted = [list(dataset.keys[: self.limit]) for dataset in self._datasets]
        self._images = [{} for _ in self._datasets]
        run = Path(trainer.default_root_dir)
        if self._store is None or self._store.run != run:
            self._store = ImageStore(run, self.side)

    def _add(self, outputs: Any, batch: Batch, dataloader_idx: int) -> None:
        if not self._datasets or not isinstance(outputs, Mapping) or "sr" not in outputs:
            return
        dataset = self._datasets[dataloader_idx]
        images = self._images[dataloader_idx]
        for i, key in enumerate(batch["key"]):
            sr = _one(outputs["sr"], i)
            if key not in self._wanted[dataloader_idx] or key in images or sr is None:
                continue
            assert self._store is not None  # since `_start`
            lr = _one(batch.get("lr"), i)
            hr = _one(batch.get("hr"), i)
            try:
                images[key] = self._store.keep(dataset, key, sr, lr, hr)
            except Exception as error:  # must not end the run
                log.warning("the report lacks the image %s: %r", key, error)

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Do nothing: metrics do not have their numbers yet."""

    def _bring_together(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.sanity_checking:
            return
        self._has_news |= trainer.state.fn != TrainerFn.FITTING
        if not self._datasets:
            return
        of_processes = gather_on_first(self._images)
        if trainer.is_global_zero:
            evaluations = []
            for index, dataset in enumerate(self._datasets):
                images: dict[str, ReportImage] = {}
                for of_process in of_processes:
                    images |= of_process[index]
                ordered = [images[key] for key in self._wanted[index] if key in images]
                evaluations.append(_evaluation(trainer, pl_module, stage, dataset, ordered))
            if trainer.state.fn == TrainerFn.FITTING:
                self._log_images(trainer, evaluations)
            self._source = self._source or provenance()
            run = Path(trainer.default_root_dir)
            try:
                with one_writer(run):
                    write_index(run, evaluations, self._source)
            except OSError as error:
                log.warning("the report will have no images of this %s: %s", stage, error)
        self._datasets = []
        self._images = []

    def _log_images(self, trainer: Trainer, evaluations: list[Evaluation]) -> None:
        """Give the first images of each dataset to the loggers."""
        images: list[ReportImage] = []
        for evaluation in evaluations:
            images += evaluation["images"][:LOGGED]
        if self._store is None or not images:
            return
        try:
            together = self._store.side_by_side(images)
            for logger in trainer.loggers:
                log_image(logger, "samples/val", together, trainer.global_step)
        except Exception as error:  # must not end the run
            log.warning("the loggers got no images: %r", error)

    def _write(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
        run = Path(trainer.default_root_dir)
        try:
            write_page(run / NAME, page([read_run(run, run.resolve().name)]))
        except Exception as error:  # must not fail a finished run
            log.warning("%s was not written: %r", run / NAME, error)


def _evaluation(
    trainer: Trainer,
    pl_module: LightningModule,
    stage: str,
    dataset: Any,
    images: list[ReportImage],
) -> Evaluation:
    metrics = [c for c in all_callbacks(trainer) if isinstance(c, ImageMetric)]
    for metric in metrics:
        for kind, of_dataset in (("sr", metric.images), ("bicubic", metric.control_images)):
            values = of_dataset.get(dataset.name, {})
            for image in images:
                if image["key"] in values:
                    numbers = image["numbers"].setdefault(kind, {})
                    numbers[metric.name] = float(values[image["key"]])
    is_training = trainer.state.fn == TrainerFn.FITTING
    return {
        "dataset": dataset.name,
        "scale": float(dataset.scale),
        "stage": stage,
        "step": trainer.global_step,
        "checkpoint": None if is_training else made_by(method_of(pl_module)),
        "protocols": {m.name: m.protocol() for m in metrics if dataset.name in m.images},
        "images": images,
    }


def write_page(path: Path, text: str) -> None:
    """Write a page atomically, and log its path."""
    refuse_foreign(path, PAGE)
    write_whole(path, text)
    log.info("report: %s (%.1f MB)", path, path.stat().st_size / 1e6)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command-line arguments; those of this process by default.

    Returns:
        0.

    Raises:
        ValueError: If a path is not a run.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    runs = [Path(run) for run in options.runs]
    out = Path(options.out or (NAME if len(runs) > 1 else runs[0] / NAME))
    contents = read_runs(runs)
    for run in contents:
        if not run.results:
            log.warning("%s has no numbers: run validate or test", run.path)
    write_page(out, page(contents))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py report",
        description="Write one page about one run, or about several side by side.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directory of a run, runs/NAME")
    parser.add_argument(
        "--out", help=f"the page; by default {NAME} in the run, or here for several runs"
    )
    return parser


def _trial(trainer: Trainer) -> bool:
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _one(images: Any, index: int) -> Tensor | None:
    """Return one image of a batch, (1, 3, H, W); None for anything else, such as a clip."""
    if not isinstance(images, Tensor) or images.ndim != 4:
        return None
    return images[index : index + 1]
