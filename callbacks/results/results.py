"""Results: the table at the end of validate and test, over one seed or several."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.table import Table

from callbacks.evaluation import (
    EvaluationCallback,
    Stage,
    all_callbacks,
    evaluated_datasets,
    gather,
)
from callbacks.metrics.base import OUTPUT, Measurements, Metric
from callbacks.results.files import (
    RESULTS,
    ImageNumbers,
    Result,
    columns,
    counts_of,
    describe,
    detail_of,
    digests_of,
    identity,
    image_numbers,
    made_by,
    rows_of,
    shown_value,
    store,
)
from files.checksums import file_hash
from files.method import Method, method_of

log = logging.getLogger(__name__)
DETAIL = "detail"  # kind of measurement beside the digests of HR


class Evaluation(NamedTuple):
    """The numbers of one pass over the images.

    seed: Seed of the method's noise; None for a method without any.
    results: The datasets' numbers, including those of bicubic.
    images: The numbers of single images.
    """

    seed: int | None
    results: list[Result]
    images: list[ImageNumbers]


def over_seeds(evaluations: Sequence[Evaluation]) -> list[Result]:
    """Return the mean of each number over the seeds, and its deviation if there are several.

    Args:
        evaluations: At least one; of the same metrics, in the order of their seeds.

    Returns:
        Results as of one evaluation. Bicubic has no noise, so its numbers are those of the first.
        A number that a seed does not have, because an output is not finite, is NaN.
    """
    seeds = [evaluation.seed for evaluation in evaluations if evaluation.seed is not None]
    values: dict[str, list[float]] = {}
    first: dict[str, Result] = {}
    left_out: dict[str, int] = {}  # the largest number of images without a finite number
    for evaluation in evaluations:
        for result in evaluation.results:
            values.setdefault(place := identity(result), []).append(result["value"])
            first.setdefault(place, result)
            left_out[place] = max(left_out.get(place, 0), result.get("not_finite", 0))
    combined: list[Result] = []
    for place, result in first.items():
        if not seeds or result["checkpoint"] == "bicubic":
            combined.append(result)
            continue
        found = values[place] + [math.nan] * (len(seeds) - len(values[place]))
        mean = sum(found) / len(found)  # not fsum, which fails for inf and -inf
        together: Result = {**result, "value": mean, "seeds": seeds}
        if len(found) > 1:
            finite = all(map(math.isfinite, found))
            together["std"] = statistics.stdev(found) if finite else math.nan
        if left_out[place]:
            together["not_finite"] = left_out[place]
        combined.append(together)
    return combined


def images_of(evaluations: Sequence[Evaluation]) -> list[ImageNumbers]:
    """Return the numbers of single images of all seeds; those of bicubic once."""
    later = [n for e in evaluations[1:] for n in e.images if n["seed"] is not None]
    return evaluations[0].images + later


class Results(EvaluationCallback):
    """Store the numbers of ``validate`` and ``test`` in the run's directory, and show them.

    A new number replaces that of the same dataset, scale, metric, protocol and checkpoint; all
    others stay. Besides ``results.json``, ``images.json`` has the numbers of single images. The
    validations within ``fit`` are in the logs instead; a line compares the model with bicubic, if a
    metric has that control.
    """

    def __init__(self) -> None:
        super().__init__()
        self.repeats = 1  # evaluations, one per seed, to be combined; `--run.seeds`
        self.drew_noise = False  # whether the latest evaluation depended on the seed
        self._evaluations: list[Evaluation] = []  # one per seed so far, on the first process
        self._digests = Measurements()  # of the images that are measured
        self._hashes = False  # whether `compare` will need them

    def _start(self, trainer: Trainer) -> None:
        self._digests = Measurements()
        measured = any(isinstance(c, Metric) for c in all_callbacks(trainer))
        self._hashes = measured and trainer.state.fn != TrainerFn.FITTING

    def _add(self, outputs: Any, batch: Any, dataloader_idx: int) -> None:
        """Hash the images of ``validate`` or ``test``, once for all metrics."""
        found = [batch[name] for name in ("hr", "clip", "lr") if name in batch]
        if found and self._hashes:
            self._digests.update(dataloader_idx, OUTPUT, batch["key"], digests_of(found[0]))
            self._digests.update(dataloader_idx, DETAIL, batch["key"], detail_of(found[-1]))

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Do nothing: metrics do not have their numbers yet."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store and show the numbers of ``validate``; in ``fit``, compare them with bicubic."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._report(trainer, pl_module)
        elif not trainer.sanity_checking and trainer.is_global_zero:
            for line in margins(all_callbacks(trainer)):
                log.info("step %d, %s", trainer.global_step, line)

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
        results = over_seeds(self._evaluations)
        path = Path(trainer.default_root_dir, RESULTS)
        if results:
            # After each seed, so that an interrupt keeps the numbers of earlier ones.
            store(path.parent, results, images_of(self._evaluations))
        if self.drew_noise and len(self._evaluations) < self.repeats:
            return
        self._evaluations = []
        if results:
            _show(results)
            log.info("numbers and protocols: %s", path)


def _evaluation(
    trainer: Trainer, method: Method, seed: int | None, digests: Measurements
) -> Evaluation:
    metrics = [c for c in all_callbacks(trainer) if isinstance(c, Metric)]
    checkpoint = made_by(method)
    file = Path((method.weights_source or "").removesuffix(" (EMA)"))
    sha256 = file_hash(file) if metrics and file.is_file() else None
    results: list[Result] = []
    for metric in metrics:
        for records, weights in ((metric.records, checkpoint), (metric.control_records, "bicubic")):
            for record in records:
                more: dict[str, object] = {"checkpoint": weights}
                if weights != "bicubic" and sha256 is not None:
                    more["sha256"] = sha256
                if (higher := metric.is_higher_better(record["metric"])) is not None:
                    more["higher_is_better"] = higher
                results.append(cast(Result, {**record, **more}))
    found = digests.by_key()
    named = {
        evaluated_datasets(trainer)[index].name: {
            k: f"{word:08x} {found[index, DETAIL][k]:.4f}" for k, word in of.items()
        }
        for (index, kind), of in found.items()
        if kind == OUTPUT
    }
    return Evaluation(seed, results, image_numbers(metrics, checkpoint, seed, named))


def margins(callbacks: list[Callback]) -> list[str]:
    """Return a line for each metric and dataset with a control: its value and the difference."""
    lines = []
    for metric in callbacks:
        if not isinstance(metric, Metric):
            continue
        controls = {(r["dataset"], r["metric"]): r for r in metric.control_records}
        for record in metric.records:
            if (control := controls.get((record["dataset"], record["metric"]))) is None:
                continue
            value, bicubic = record["value"], control["value"]
            difference = value - bicubic
            verdict = _verdict(difference, metric.is_higher_better(record["metric"]))
            lines.append(
                f"{record['dataset']} x{record['scale']:g}: {record['metric']} "
                f"{value:.4f}, bicubic {bicubic:.4f}: {difference:+.4f}{verdict}"
            )
    return lines


def _verdict(difference: float, higher_is_better: bool | None) -> str:
    # Equal as printed is equal; numbers that are not finite are not comparable.
    if higher_is_better is None or not math.isfinite(difference):
        return ""
    if round(difference, 4) == 0:
        return ", equal"
    return ", better" if (difference > 0) == higher_is_better else ", worse"


def table(results: list[Result]) -> Table:
    """Return a table of datasets by metrics, one protocol per column; protocols stand below."""
    headings = columns(results)
    protocols = (f"{heading}: {describe(protocol)}" for heading, protocol in headings.values())
    shown = Table(caption="\n".join(protocols), caption_justify="left")
    shown.add_column("dataset")
    for heading in ("scale", *(heading for heading, _ in headings.values()), "n"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("checkpoint", overflow="fold")
    for (dataset, scale, checkpoint), found in rows_of(results).items():
        values = [shown_value(found.get(column)) for column in headings]
        shown.add_row(dataset, f"x{scale:g}", *values, counts_of(found), checkpoint or "-")
    return shown


def _show(results: list[Result]) -> None:
    shown, console = table(results), Console()
    unlimited = console.options.update(width=10_000)  # or the width would be the window's
    needed = console.measure(shown, options=unlimited).maximum
    Console(width=max(console.width, needed)).print(shown)  # a window breaks longer lines
