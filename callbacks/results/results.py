"""Results: the table at the end of validate and test, over one seed or several."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.evaluation import (
    EvaluationCallback,
    Stage,
    all_callbacks,
    evaluated_datasets,
    gather,
)
from callbacks.metrics.base import OUTPUT, Measurements, Metric
from callbacks.results.digests import detail_of, hashes_of
from callbacks.results.files import RESULTS, append, made_by
from callbacks.results.rows import Row, over_seeds, rows_of
from callbacks.results.tables import as_markdown, of_run, show
from callbacks.tensorboard import log_text
from files.checksums import file_hash
from files.method import Method, method_of
from files.owned import free_place, hold_place, refuse_moved

log = logging.getLogger(__name__)
DETAIL = "detail"  # kind of measurement beside the hashes of HR


class Results(EvaluationCallback):
    """Store the numbers of ``validate`` and ``test`` in the run's directory, and show them.

    A new number replaces that of the same dataset, scale, metric, protocol and checkpoint; all
    others stay. Besides ``results.json``, ``images.json`` has the numbers of single images. The
    validations within ``fit`` are in the logs instead, and in one line of the terminal each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.repeats = 1  # evaluations, one per seed, to be combined; `--run.seeds`
        self.drew_noise = False  # whether the latest evaluation depended on the seed
        self._evaluations: list[list[Row]] = []  # one per seed so far, on the first process
        self._digests = Measurements()  # of the images that are measured
        self._hashes = False  # whether `compare` will need them

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hold the run's directory: numbers are never written to another that takes its place."""
        run = Path(trainer.default_root_dir)
        refuse_moved(run)
        if stage != "fit" and run.is_dir():
            hold_place(run)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hold the run's directory no longer."""
        if stage != "fit":
            free_place(Path(trainer.default_root_dir))

    def _start(self, trainer: Trainer) -> None:
        self._digests = Measurements()
        measured = any(isinstance(c, Metric) for c in all_callbacks(trainer))
        self._hashes = measured and trainer.state.fn != TrainerFn.FITTING

    def _add(self, outputs: Any, batch: Any, dataloader_idx: int) -> None:
        """Hash the images of ``validate`` or ``test``, once for all metrics."""
        images = [batch[name] for name in ("hr", "clip", "lr") if name in batch]
        if images and self._hashes:
            self._digests.update(dataloader_idx, OUTPUT, batch["key"], hashes_of(images[0]))
            self._digests.update(dataloader_idx, DETAIL, batch["key"], detail_of(images[-1]))

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Do nothing: metrics do not have their numbers yet."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store and show the numbers of ``validate``; of ``fit`` show them."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._report(trainer, pl_module)
        elif not trainer.sanity_checking and trainer.is_global_zero:
            numbers = list(_numbers(trainer))
            if numbers:
                log.info("step %d: %s", trainer.global_step, ", ".join(numbers))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store and show the numbers of ``test``."""
        self._report(trainer, pl_module)

    def _report(self, trainer: Trainer, pl_module: LightningModule) -> None:
        method = method_of(pl_module)
        # On a process without images the method drew nothing.
        self.drew_noise = any(gather(method.drew_noise))
        self._digests.gather()
        if not trainer.is_global_zero:
            return
        seed = method.noise_seed if self.drew_noise else None
        self._evaluations.append(_evaluation(trainer, method, seed, self._digests))
        rows = over_seeds(self._evaluations)
        run = Path(trainer.default_root_dir)
        # After each seed, so that an interrupt keeps the numbers of earlier ones.
        stored = append(run, rows) if rows else []
        if self.drew_noise and len(self._evaluations) < self.repeats:
            return
        self._evaluations = []
        if rows:
            show(*of_run(rows))
            log_text(run, "results", as_markdown(*of_run(stored)))
            log.info("numbers and protocols: %s", run / RESULTS)


def _numbers(trainer: Trainer) -> Iterator[str]:
    """Yield the numbers of a validation within ``fit``, beside those of bicubic where it has them.

    Args:
        trainer: The trainer, whose metrics have their numbers.
    """
    for metric in all_callbacks(trainer):
        if not isinstance(metric, Metric):
            continue
        bicubic = {metric.tag("val", record): record for record in metric.control_records}
        for record in metric.records:
            tag = metric.tag("val", record)
            beside = f" (bicubic {bicubic[tag]['value']:.4g})" if tag in bicubic else ""
            yield f"{tag} {record['value']:.4g}{beside}"


def _evaluation(
    trainer: Trainer, method: Method, seed: int | None, measured: Measurements
) -> list[Row]:
    """Return the rows of one pass over the images."""
    metrics = [c for c in all_callbacks(trainer) if isinstance(c, Metric)]
    file = Path((method.weights_source or "").removesuffix(" (EMA)"))
    sha256 = file_hash(file) if metrics and file.is_file() else None
    by_key = measured.by_key()
    digests: dict[str, dict[str, str]] = {}
    for index, dataset in enumerate(evaluated_datasets(trainer)):
        details = by_key.get((index, DETAIL), {})
        hashes = by_key.get((index, OUTPUT), {})
        digests[dataset.name] = {key: f"{hashes[key]:08x} {details[key]:.4f}" for key in hashes}
    rows: list[Row] = []
    for metric in metrics:
        rows += rows_of(metric, made_by(method), seed, sha256, digests)
    return rows
