"""Results: the table at the end of validate and test, over one seed or several."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from lightning.pytorch import LightningModule, Trainer
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
from callbacks.metrics.base import OUTPUT, Measurements, Metric, Record
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
    load_results,
    made_by,
    rows_of,
    shown_value,
    store,
)
from callbacks.tensorboard import log_text
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
    by_number: dict[str, list[Result]] = {}
    for evaluation in evaluations:
        for result in evaluation.results:
            by_number.setdefault(identity(result), []).append(result)
    combined: list[Result] = []
    for of_seeds in by_number.values():
        first = of_seeds[0]
        if not seeds or first["checkpoint"] == "bicubic":
            combined.append(first)
            continue
        values = [result["value"] for result in of_seeds]
        values += [math.nan] * (len(seeds) - len(values))
        mean = sum(values) / len(values)  # not fsum, which fails for inf and -inf
        together: Result = {**first, "value": mean, "seeds": seeds}
        if len(values) > 1:
            are_finite = all(map(math.isfinite, values))
            together["std"] = statistics.stdev(values) if are_finite else math.nan
        not_finite = max(result.get("not_finite", 0) for result in of_seeds)
        if not_finite:
            together["not_finite"] = not_finite
        combined.append(together)
    return combined


def images_of(evaluations: Sequence[Evaluation]) -> list[ImageNumbers]:
    """Return the numbers of single images of all seeds; those of bicubic once."""
    images = list(evaluations[0].images)
    for evaluation in evaluations[1:]:
        images += [numbers for numbers in evaluation.images if numbers["seed"] is not None]
    return images


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
        self._evaluations: list[Evaluation] = []  # one per seed so far, on the first process
        self._digests = Measurements()  # of the images that are measured
        self._hashes = False  # whether `compare` will need them

    def _start(self, trainer: Trainer) -> None:
        self._digests = Measurements()
        measured = any(isinstance(c, Metric) for c in all_callbacks(trainer))
        self._hashes = measured and trainer.state.fn != TrainerFn.FITTING

    def _add(self, outputs: Any, batch: Any, dataloader_idx: int) -> None:
        """Hash the images of ``validate`` or ``test``, once for all metrics."""
        images = [batch[name] for name in ("hr", "clip", "lr") if name in batch]
        if images and self._hashes:
            self._digests.update(dataloader_idx, OUTPUT, batch["key"], digests_of(images[0]))
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
            log_text(path.parent, "results", markdown(load_results(path)["results"]))
            log.info("numbers and protocols: %s", path)


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
    trainer: Trainer, method: Method, seed: int | None, digests: Measurements
) -> Evaluation:
    metrics = [c for c in all_callbacks(trainer) if isinstance(c, Metric)]
    checkpoint = made_by(method)
    file = Path((method.weights_source or "").removesuffix(" (EMA)"))
    sha256 = file_hash(file) if metrics and file.is_file() else None
    results: list[Result] = []
    for metric in metrics:
        for record in metric.records:
            result = _result(metric, record, checkpoint)
            if sha256 is not None:
                result["sha256"] = sha256
            results.append(result)
        results += [_result(metric, record, "bicubic") for record in metric.control_records]
    by_key = digests.by_key()
    by_name: dict[str, dict[str, str]] = {}
    for index, dataset in enumerate(evaluated_datasets(trainer)):
        details = by_key.get((index, DETAIL), {})
        hashes = by_key.get((index, OUTPUT), {})
        by_name[dataset.name] = {key: f"{hashes[key]:08x} {details[key]:.4f}" for key in hashes}
    return Evaluation(seed, results, image_numbers(metrics, checkpoint, seed, by_name))


def _result(metric: Metric, record: Record, checkpoint: str | None) -> Result:
    result = cast(Result, {**record, "checkpoint": checkpoint})
    higher_is_better = metric.is_higher_better(record["metric"])
    if higher_is_better is not None:
        result["higher_is_better"] = higher_is_better
    return result


def cells(results: list[Result]) -> list[list[str]]:
    """Return the headings and rows of datasets by metrics, one protocol per column."""
    headings = columns(results)
    names = [heading for heading, _ in headings.values()]
    rows = [["dataset", "scale", *names, "n", "checkpoint"]]
    for (dataset, scale, checkpoint), row in rows_of(results).items():
        values = [shown_value(row.get(column)) for column in headings]
        rows.append([dataset, f"x{scale:g}", *values, counts_of(row), checkpoint or "-"])
    return rows


def protocols(results: list[Result]) -> list[str]:
    """Return a line for each column: how its numbers were computed."""
    headings = columns(results).values()
    return [f"{heading}: {describe(protocol)}" for heading, protocol in headings]


def table(results: list[Result]) -> Table:
    """Return the table for a terminal, with the protocols below."""
    table = Table(caption="\n".join(protocols(results)), caption_justify="left")
    headings, *rows = cells(results)
    table.add_column(headings[0])
    for heading in headings[1:-1]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(headings[-1], overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(results: list[Result]) -> str:
    """Return the table in Markdown, with the protocols below."""
    headings, *rows = cells(results)
    rule = ["---", *["---:"] * (len(headings) - 2), "---"]
    lines = [f"| {' | '.join(row)} |" for row in (headings, rule, *rows)]
    return "\n".join([*lines, "", *(f"- {line}" for line in protocols(results))])


def _show(results: list[Result]) -> None:
    rows = table(results)
    console = Console()
    unlimited = console.options.update(width=10_000)  # or the width would be the window's
    needed = console.measure(rows, options=unlimited).maximum
    Console(width=max(console.width, needed)).print(rows)  # a window breaks longer lines
